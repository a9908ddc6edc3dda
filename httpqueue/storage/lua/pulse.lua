-- pulse: whether anything is still to be done now, and when there will be something; for the virtual clock.
-- KEYS    those of the store, see common.lua, then   18 queue, on the same server
-- ARGV    1 now
-- RETURNS {1 when all is settled, ms of the next thing to happen, -1: nothing ever}

local keys = store_keys()
local now = now_ms(ARGV[1])

local function is_settled()
  if redis.call('XLEN', keys.outbox) > 0 or redis.call('ZCARD', keys.running) > 0
    or redis.call('ZCOUNT', KEYS[18], '-inf', now) > 0 then
    return false
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.due, '-inf', now)) do
    local record = redis.call('GET', keys.records .. member)
    local head = record and read_head(record)
    local tried_again = tonumber(redis.call('ZSCORE', keys.waiting, member) or now)
    if head and tried_again <= now and not is_blocked(keys, member, head.lane) then
      return false
    end
  end
  return true
end

local next = -1
local after_now, before_last = string.format('(%.0f', now), string.format('(%.0f', AT_LAST)
for _, index in ipairs({keys.due, keys.waiting, KEYS[18]}) do
  local first = redis.call('ZRANGEBYSCORE', index, after_now, before_last, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if first and (next < 0 or tonumber(first) < next) then
    next = tonumber(first)
  end
end
return {is_settled() and 1 or 0, next}
