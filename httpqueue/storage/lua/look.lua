-- look: what a relay has to do in a partition, so that it need not try everything in all of them.
-- KEYS    outbox, next, retention, running, waiting, probes, pointers
-- ARGV    1 now   2 horizon, ms   3 how long a wake-up is overdue when it may be lost, ms
-- RETURNS {1 or 0 for each: outbox entries, expired timers, timers due within the horizon, something to heal}

local now = now_ms(ARGV[1])

local function has(index, latest)
  return redis.call('ZRANGEBYSCORE', index, '-inf', latest, 'LIMIT', 0, 1)[1] and 1 or 0
end

local is_waiting = has(keys.waiting, now) + has(keys.probes, now) + has(keys.pointers, now) > 0
-- While any timer runs, heal says regularly that the store is up (see up_since).
local must_heal = is_waiting or redis.call('ZCARD', keys.running) > 0 or has(keys.next, now - ARGV[3]) == 1
return {
  redis.call('XLEN', keys.outbox) > 0 and 1 or 0,
  has(keys.retention, now),
  has(keys.next, now + ARGV[2]),
  must_heal and 1 or 0
}
