-- job_cancel: end a job that nobody has begun; tell the relay of one that runs.
-- KEYS    jobs, open, open_of
-- ARGV    1 now   2 id   3 how long an ended job is kept, ms
-- RETURNS the job's state now; '' when there is no such job

go_on_when_full(keys.open)
local now = now_ms(ARGV[1])
local id, kept = ARGV[2], ARGV[3]
local key = keys.jobs .. id

local job = redis.call('HMGET', key, 'state', 'application', 'slot')
if job[1] == 'running' then
  redis.call('HSET', key, 'state', 'cancelling')
  return 'cancelling'
end
if job[1] ~= 'waiting' then
  return job[1] or ''
end
redis.call('HSET', key, 'state', 'cancelled', 'ended', now)
redis.call('PEXPIRE', key, kept)
redis.call('ZREM', keys.open, id)
redis.call('HDEL', keys.open_of .. job[2], job[3])
return 'cancelled'
