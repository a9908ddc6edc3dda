-- pulse: whether anything is still to be done now, and when there will be something; for the virtual clock.
-- KEYS    records, due, running, outbox, lanes, waiting, queue
-- ARGV    1 now   2 rank of the first due timer to look at   3 how many to look at
-- RETURNS {1 when nothing happens now and none of these timers may start, how many timers were looked at,
--          ms of the next thing to happen, -1: nothing ever}

local now, first, limit = now_ms(ARGV[1]), ARGV[2], ARGV[3]

local function may_start(member)
  local head = head_of(member)
  local next_try = tonumber(redis.call('ZSCORE', keys.waiting, member) or now)
  return head and next_try <= now and not is_blocked(member, head.lane)
end

local looked_at = 0

local function is_settled()
  if redis.call('XLEN', keys.outbox) > 0 or redis.call('ZCARD', keys.running) > 0
    or redis.call('ZCOUNT', keys.queue, '-inf', now) > 0 then
    return false
  end
  local members = redis.call('ZRANGEBYSCORE', keys.due, '-inf', now, 'LIMIT', first, limit)
  looked_at = #members
  for _, member in ipairs(members) do
    if may_start(member) then
      return false
    end
  end
  return true
end

local next = -1
local after_now, before_later = string.format('(%.0f', now), string.format('(%.0f', LATER)
for _, index in ipairs({keys.due, keys.waiting, keys.queue}) do
  local score = redis.call('ZRANGEBYSCORE', index, after_now, before_later, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if score and (next < 0 or tonumber(score) < next) then
    next = tonumber(score)
  end
end
return {is_settled() and 1 or 0, looked_at, next}
