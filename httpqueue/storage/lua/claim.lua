-- claim: pop due wake-ups, the earliest first.
-- KEYS    queue, jobs
-- ARGV    1 now   2 ms that this server's clock is ahead of the store's   3 limit
-- RETURNS {ms until the next wake-up is due (0: more may be due now; -1: the queue is empty), {wake-up id, ...}}
-- Job definitions are not read: a wake-up id says everything. An id that is not ours was put by stock arq.

local now = now_ms(ARGV[1]) - ARGV[2]
local limit = tonumber(ARGV[3])
local ids = redis.call('ZRANGEBYSCORE', keys.queue, '-inf', now, 'LIMIT', 0, limit)
local jobs = {}
for _, id in ipairs(ids) do
  jobs[#jobs + 1] = job_key(id)
end
if #ids > 0 then
  redis.call('ZREMRANGEBYRANK', keys.queue, 0, #ids - 1) -- due wake-ups have the lowest scores
  call_for_all('DEL', nil, jobs)
end
if #ids == limit then
  return {0, ids}
end
local head = redis.call('ZRANGE', keys.queue, 0, 0, 'WITHSCORES')[2]
return {head and math.max(0, math.ceil(tonumber(head) - now)) or -1, ids}
