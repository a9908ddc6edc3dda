-- beat: renew the leases of attempts that are alive.
-- KEYS    records, running, up
-- ARGV    1 now   2 msgpack [[member, nonce, holder, lease ms], ...]
-- RETURNS for each attempt 1: its lease is renewed, or 0: the attempt no longer belongs to the worker

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
up_since(now)
local answers, leases = {}, {}
for i, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, nonce, holder, lease = unpack(item)
  local head = short_head_of(member)
  answers[i] = 0
  if is_held_by(head, nonce, holder) then
    leases[#leases + 1] = now + lease
    leases[#leases + 1] = member
    answers[i] = 1
  end
end
call_for_all('ZADD', keys.running, leases)
return answers
