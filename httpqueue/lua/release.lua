-- release: take timers out of a line, the earliest first, and have them woken again.
-- KEYS    those of the store, see common.lua
-- ARGV    1 the line: host:<host> or application:<app>   2 limit
-- RETURNS how many were taken out

local keys = store_keys()
local limit = tonumber(ARGV[2])

local function wake(members)
  for i = 1, #members, 2 do
    local record = redis.call('GET', keys.records .. members[i])
    local head = record and read_head(record)
    if head and head.state == SCHEDULED then
      tell_relay(keys.outbox, members[i], head)
    end
  end
  return #members / 2
end

local released = wake(redis.call('ZPOPMIN', keys.lines .. ARGV[1], limit))
local host = string.match(ARGV[1], '^host:(.*)')
if host then
  released = released + wake(redis.call('ZPOPMIN', keys.slots .. host, limit))
  redis.call('DEL', keys.rates .. host)
end
return released
