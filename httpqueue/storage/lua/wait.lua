-- wait: note that timers wait in the lines of their hosts. No attempt is counted.
-- KEYS    records, due, held, next, outbox, counts, running, waiting
-- ARGV    1 now   2 msgpack [[member, generation], ...]
-- The host knew first. A timer that was changed or has ended meanwhile is left as it is.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
for _, wake_up in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, generation = unpack(wake_up)
  local head = short_head_of(member)
  if head and head.generation == generation and head.state == SCHEDULED then
    redis.call('ZADD', keys.waiting, now + WAIT_PROBE_MS, member)
    place_in('held', member, head.due)
  end
end
write_changes()
