-- begin: start an attempt for each wake-up whose timer is due; while it runs its due index entry is the lease's end.
-- KEYS    1 record prefix   2 due index   3 set aside
-- ARGV    1 now   2 lease ms   3 msgpack [[member, generation], ...]
-- RETURNS a wake-up {'begun', attempt, due ms, now ms, spec}
--         or {'early', due ms, now ms}   its time has not come by this server's clock
--         or {'gone' | 'stale' | 'finished' | 'running' | 'unreadable'}
-- A timer that runs past its lease has lost its worker and begins again.

local now = now_ms(ARGV[1])
local lease_end = now + ARGV[2]
local answers, leases, leased = {}, {}, {}
for i, wake_up in ipairs(cmsgpack.unpack(ARGV[3])) do
  local member, generation = wake_up[1], wake_up[2]
  local key = KEYS[1] .. member
  local record = redis.call('GET', key)
  local head = record and read_head(record)
  local spec = head and read_spec(head)
  if not record then
    answers[i] = {'gone'}
  elseif not spec then
    -- out of the due index, or it would come back for ever; the record itself stays for inspection
    redis.call('ZREM', KEYS[2], member)
    redis.call('ZADD', KEYS[3], now, member)
    answers[i] = {'unreadable'}
  elseif head.generation ~= generation then
    answers[i] = {'stale'}
  elseif head.state == RUNNING
    and (leased[member] or tonumber(redis.call('ZSCORE', KEYS[2], member) or 0) > now) then
    answers[i] = {'running'}
  elseif head.state ~= SCHEDULED and head.state ~= RUNNING then
    answers[i] = {'finished'}
  elseif head.state == SCHEDULED and head.due > now then
    answers[i] = {'early', head.due, now}
  else
    head.state = RUNNING
    head.attempts = head.attempts + 1
    redis.call('SET', key, write_record(head, head.rest))
    leased[member] = true
    leases[#leases + 1] = lease_end
    leases[#leases + 1] = member
    answers[i] = {'begun', head.attempts, head.due, now, spec}
  end
end
call_for_all('ZADD', KEYS[2], leases)
return answers
