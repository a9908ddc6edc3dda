-- pulse: whether all that is due is settled, and when the next thing happens; for the virtual clock.
-- KEYS    next, running, outbox, applications, queue
-- ARGV    1 now   2 how many applications to read at most
-- RETURNS {1: all is settled, 0: not yet; when the next thing happens, ms since the epoch, -1: never}
-- A timer in a due index waits for nothing but time, unless its application is paused.

local now, limit = now_ms(ARGV[1]), ARGV[2]
local next_ms = -1

local function note(ms)
  if ms and (next_ms < 0 or tonumber(ms) < next_ms) then
    next_ms = tonumber(ms)
  end
end

local is_settled = redis.call('XLEN', keys.outbox) == 0 and redis.call('ZCARD', keys.running) == 0
  and redis.call('ZCOUNT', keys.queue, '-inf', now) == 0
local due = redis.call('ZRANGEBYSCORE', keys.next, '-inf', now, 'LIMIT', 0, limit)
for _, application in ipairs(due) do
  is_settled = is_settled and is_paused(application)
end
for _, index in ipairs({keys.next, keys.queue}) do
  note(redis.call('ZRANGEBYSCORE', index, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
end
return {is_settled and 1 or 0, next_ms}
