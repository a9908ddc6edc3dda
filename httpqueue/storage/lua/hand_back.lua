-- hand_back: give up attempts that a worker has begun, so that another worker makes them.
-- KEYS    records, due, held, next, running, outbox, counts, lanes, ended, retention, probes, ending
-- ARGV    1 now   2 msgpack [[member, nonce, holder, may have been called?], ...]
-- RETURNS for each attempt 1: it is handed back, or 0: it no longer belongs to the worker
-- No attempt is counted. A webhook that may have been called counts as a lost worker: it may come twice.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local answers, ended = {}, {}
for i, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, nonce, holder, may_be_sent = unpack(item)
  local head = head_of(member)
  answers[i] = 0
  if is_held_by(head, nonce, holder) then
    head.holder = ''
    if not end_after_run(member, head, head.rest, now) then
      head.state, head.attempts = SCHEDULED, head.attempts - 1
      head.lost = head.lost + (may_be_sent and 1 or 0)
      write_record(member, head, head.rest)
      place_in('due', member, head.due)
      count_move(member, RUNNING, SCHEDULED)
      tell_relay(member, head)
      ended[#ended + 1] = member
    end
    answers[i] = 1
  end
end
call_for_all('ZREM', keys.running, ended)
write_changes()
return answers
