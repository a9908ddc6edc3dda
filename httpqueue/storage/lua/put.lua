-- put: place wake-ups in the queue, or move those that are there; says so when one of them became the earliest.
-- KEYS    1 queue
-- ARGV    1 arq job key prefix   2 arq job definition   3 wake channel   4 msgpack [[wake-up id, due ms], ...]
-- RETURNS how many were not in the queue before

local function earliest()
  return tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or math.huge)
end

local before = earliest()
local size = redis.call('ZCARD', KEYS[1])
local jobs, entries = {}, {}
for _, wake_up in ipairs(cmsgpack.unpack(ARGV[4])) do
  jobs[#jobs + 1] = ARGV[1] .. wake_up[1]
  jobs[#jobs + 1] = ARGV[2]
  entries[#entries + 1] = wake_up[2]
  entries[#entries + 1] = wake_up[1]
end
call_for_all('MSET', nil, jobs)
call_for_all('ZADD', KEYS[1], entries)
if earliest() < before then
  redis.call('PUBLISH', ARGV[3], '')
end
return redis.call('ZCARD', KEYS[1]) - size
