-- wake: see to the wake-ups of timers that wait for their hosts.
-- KEYS    records, due, held, next, outbox, counts, waiting
-- ARGV    1 now   2 1: their hosts no longer know that they wait, 0: they still wait, and ask again
--         3 msgpack [[member, generation], ...]
-- RETURNS for each wake-up 1: its timer may still begin, or 0: it has ended or was changed; its host should forget it

go_on_when_full(keys.waiting)
local now, is_unknown = now_ms(ARGV[1]), ARGV[2] == '1'
local answers = {}
for i, wake_up in ipairs(cmsgpack.unpack(ARGV[3])) do
  local member, generation = unpack(wake_up)
  local head = short_head_of(member)
  local is_wanted = head and head.generation == generation and not is_finished(head)
  if is_unknown then
    redis.call('ZREM', keys.waiting, member)
    wake(member, now)
  elseif is_wanted and head.state == SCHEDULED then
    tell_relay(member, head)
  end
  answers[i] = is_wanted and 1 or 0
end
write_changes()
return answers
