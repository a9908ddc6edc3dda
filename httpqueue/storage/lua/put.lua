-- put: place wake-ups in the queue, or move those that are there; tells workers when one of them became the earliest.
-- KEYS    queue, jobs, wake
-- ARGV    1 arq job definition   2 msgpack [[wake-up id, due ms], ...]
-- RETURNS how many were not in the queue before

local definition, wake_ups = ARGV[1], cmsgpack.unpack(ARGV[2])

local function earliest()
  return tonumber(redis.call('ZRANGE', keys.queue, 0, 0, 'WITHSCORES')[2] or math.huge)
end

local before = earliest()
local size = redis.call('ZCARD', keys.queue)
local jobs, entries = {}, {}
for _, wake_up in ipairs(wake_ups) do
  local id, due = unpack(wake_up)
  jobs[#jobs + 1] = keys.jobs .. id
  jobs[#jobs + 1] = definition
  entries[#entries + 1] = due
  entries[#entries + 1] = id
end
call_for_all('MSET', nil, jobs)
call_for_all('ZADD', keys.queue, entries)
if earliest() < before then
  redis.call('PUBLISH', keys.wake, '')
end
return redis.call('ZCARD', keys.queue) - size
