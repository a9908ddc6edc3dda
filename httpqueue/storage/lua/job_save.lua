-- job_save: note how far a job has come, and renew its lease, give it up, or end the job.
-- KEYS    jobs, open, open_of
-- ARGV    1 now   2 id   3 holder
--         4 state: 'running', or how it ended: 'done', 'failed' or 'cancelled'
--         5 lease, ms; 0: it is given up, any relay may take it
--         6 how long an ended job is kept, ms   7 msgpack {field: value, ...} to be written
-- RETURNS the job's state now; '': another relay has it, nothing was written

go_on_when_full(keys.open)
local now = now_ms(ARGV[1])
local id, holder, state, lease, kept = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local key = keys.jobs .. id

local job = redis.call('HMGET', key, 'holder', 'state', 'application', 'slot')
if job[1] ~= holder then
  return ''
end
for field, value in pairs(cmsgpack.unpack(ARGV[7])) do
  redis.call('HSET', key, field, value)
end
if state == 'running' then
  redis.call('ZADD', keys.open, now + lease, id)
  if lease == 0 then
    redis.call('HSET', key, 'holder', '')
  end
  return job[2]
end
redis.call('HSET', key, 'state', state, 'ended', now, 'holder', '')
redis.call('PEXPIRE', key, kept)
redis.call('ZREM', keys.open, id)
redis.call('HDEL', keys.open_of .. job[3], job[4])
return state
