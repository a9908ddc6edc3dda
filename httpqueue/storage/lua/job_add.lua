-- job_add: store a new job.
-- KEYS    jobs, open, open_of
-- ARGV    1 now   2 id   3 application   4 spec (JSON)
--         5 kind of which an application has one open job at most, or ''   6 how many open jobs it may have
-- RETURNS {id, {field, value, ...}} of the new job, or of the open one of that kind
--         {}: the application has too many open jobs
-- A job is a hash. Times are ms since the epoch.
--   application, spec, state, created, started, ended, cursor (JSON), total, done, matched, changed, error
--   slot     its field in open_of
--   holder   names the relay that works on it, and the call that took it; '' when nobody does

local now = now_ms(ARGV[1])
local id, application, spec, sole, limit = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local open_of = keys.open_of .. application
local slot = sole == '' and id or sole
local other = redis.call('HGET', open_of, slot)
if other then
  return {other, redis.call('HGETALL', keys.jobs .. other)}
end
if sole == '' and redis.call('HLEN', open_of) >= limit then
  return {}
end
redis.call('HSET', keys.jobs .. id, 'application', application, 'slot', slot, 'spec', spec, 'state', 'waiting',
  'created', now, 'holder', '', 'done', 0, 'matched', 0, 'changed', 0)
redis.call('ZADD', keys.open, now, id)
redis.call('HSET', open_of, slot, id)
return {id, redis.call('HGETALL', keys.jobs .. id)}
