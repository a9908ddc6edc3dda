-- release: wake timers that were due while their application was paused, the earliest first.
-- KEYS    records, due, held, next, outbox, counts, filled, lines
-- ARGV    1 now   2 application   3 limit
-- RETURNS how many timers were taken out of the line
-- The application's due index is put into the queue again from its beginning.

go_on_when_full(keys.next)
local now, application, limit = now_ms(ARGV[1]), ARGV[2], tonumber(ARGV[3])

redis.call('HDEL', keys.filled, application)
local members = redis.call('ZPOPMIN', keys.lines .. application, limit)
for i = 1, #members, 2 do
  wake(members[i], now)
end
write_changes()
return #members / 2
