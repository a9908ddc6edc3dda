-- put: put wake-ups into the queue, and wake the workers when one of them is now the earliest.
-- KEYS    queue, jobs
-- ARGV    1 now   2 ms that this server's clock is ahead of the store's   3 arq job definition
--         4 msgpack [[wake-up id, due ms], ...]
-- RETURNS how many of them were not in the queue before
-- A wake-up that is past due gets the score `now`, so it joins the end of those that are due. A wake-up that
-- is already in the queue moves only to an earlier time. A job expires long after its wake-up is due: should the
-- queue be lost without its jobs, they go, too.

local JOB_MS = 7 * 24 * 3600000
local now, definition, wake_ups = now_ms(ARGV[1]) - ARGV[2], ARGV[3], cmsgpack.unpack(ARGV[4])

go_on_when_full(keys.queue)

local function earliest()
  return tonumber(redis.call('ZRANGE', keys.queue, 0, 0, 'WITHSCORES')[2] or math.huge)
end

local before = earliest()
local size = redis.call('ZCARD', keys.queue)
local entries = {}
for _, wake_up in ipairs(wake_ups) do
  local id, due = unpack(wake_up)
  redis.call('SET', job_key(id), definition, 'PX', math.max(due - now, 0) + JOB_MS)
  entries[#entries + 1] = math.max(due, now)
  entries[#entries + 1] = id
end
for first = 1, #entries, MAX_ARGUMENTS do
  redis.call('ZADD', keys.queue, 'LT', unpack(entries, first, math.min(first + MAX_ARGUMENTS - 1, #entries)))
end
if earliest() < before then
  redis.call('PUBLISH', WAKE_CHANNEL, string.match(keys.queue, '{(%d+)}'))
end
return redis.call('ZCARD', keys.queue) - size
