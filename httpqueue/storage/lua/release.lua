-- release: take timers out of a line, the earliest first, and have them woken again.
-- KEYS    those of the store, see common.lua
-- ARGV    1 the line: host:<host> or application:<app>   2 limit
-- RETURNS how many were taken out

local keys = store_keys()
local limit = tonumber(ARGV[2])

local function take_out(line)
  local members = redis.call('ZPOPMIN', line, limit)
  for i = 1, #members, 2 do
    wake(keys, members[i])
  end
  return #members / 2
end

local released = take_out(keys.lines .. ARGV[1])
local host = string.match(ARGV[1], '^host:(.*)')
if host then
  released = released + take_out(keys.slots .. host)
  redis.call('DEL', keys.rates .. host)
end
return released
