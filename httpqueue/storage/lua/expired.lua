-- expired: timers whose retention is over, for `forget`.
-- KEYS    retention
-- ARGV    1 now   2 limit
-- RETURNS {member, ...}

return redis.call('ZRANGEBYSCORE', keys.retention, '-inf', now_ms(ARGV[1]), 'LIMIT', 0, ARGV[2])
