-- job_take: take the job that has waited longest for a relay, under a lease.
-- KEYS    jobs, open
-- ARGV    1 now   2 holder   3 lease, ms
-- RETURNS {id, {field, value, ...}}, or {} when there is none
-- Whoever takes jobs in turn gives each a little time: a long one does not hold up the others.

go_on_when_full(keys.open)
local now = now_ms(ARGV[1])
local holder, lease = ARGV[2], tonumber(ARGV[3])

while true do
  local id = redis.call('ZRANGEBYSCORE', keys.open, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then
    return {}
  end
  local state = redis.call('HGET', keys.jobs .. id, 'state')
  if state then
    if state == 'waiting' then
      redis.call('HSET', keys.jobs .. id, 'state', 'running', 'started', now)
    end
    redis.call('HSET', keys.jobs .. id, 'holder', holder)
    redis.call('ZADD', keys.open, now + lease, id)
    return {id, redis.call('HGETALL', keys.jobs .. id)}
  end
  redis.call('ZREM', keys.open, id) -- its hash is lost
end
