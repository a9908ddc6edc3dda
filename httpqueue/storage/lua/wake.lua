-- wake: see to the wake-ups of timers that wait for their hosts.
-- KEYS    records, due, held, next, outbox, counts, waiting
-- ARGV    1 now   2 1: their hosts no longer know that they wait, 0: they still wait, and ask again
--         3 msgpack [member, ...]

go_on_when_full(keys.waiting)
local now, is_unknown = now_ms(ARGV[1]), ARGV[2] == '1'
for _, member in ipairs(cmsgpack.unpack(ARGV[3])) do
  if is_unknown then
    redis.call('ZREM', keys.waiting, member)
    wake(member, now)
  else
    local head = short_head_of(member)
    if head and head.state == SCHEDULED then
      tell_relay(member, head)
    end
  end
end
write_changes()
