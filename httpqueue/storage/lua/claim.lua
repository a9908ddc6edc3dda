-- claim: pop due wake-ups, the earliest first.
-- KEYS    queue, jobs
-- ARGV    1 now   2 ms that this server's clock is ahead of the store's   3 limit
--         4 the job definition that `put` writes
-- RETURNS {ms until the next wake-up is due (0: more may be due now; -1: the queue is empty),
--          {wake-up id, job definition or '' when it is that of `put`, ...}}

local now = now_ms(ARGV[1]) - ARGV[2]
local limit, usual_definition = tonumber(ARGV[3]), ARGV[4]
local ids = redis.call('ZRANGEBYSCORE', keys.queue, '-inf', now, 'LIMIT', 0, limit)
local claimed, jobs = {}, {}
for i, id in ipairs(ids) do
  jobs[i] = keys.jobs .. id
  local definition = redis.call('GET', jobs[i])
  claimed[2 * i - 1] = id
  -- When somebody dropped the definition, the id is enough: it names timer and generation.
  claimed[2 * i] = definition and definition ~= usual_definition and definition or ''
end
if #ids > 0 then
  redis.call('ZREMRANGEBYRANK', keys.queue, 0, #ids - 1) -- due wake-ups have the lowest scores
  call_for_all('DEL', nil, jobs)
end
if #ids == limit then
  return {0, claimed}
end
local head = redis.call('ZRANGE', keys.queue, 0, 0, 'WITHSCORES')[2]
return {head and math.max(0, math.ceil(tonumber(head) - now)) or -1, claimed}
