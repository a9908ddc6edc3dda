-- top_up: the wake-ups that the queue should have next, of up to 50 applications. Each is handed out once.
-- KEYS    records, due, next, filled, applications
-- ARGV    1 now   2 horizon, ms   3 window: how many wake-ups of an application the queue may hold
--         4 limit of the answer
--         5 how many applications to skip, of those with timers due within the horizon
-- RETURNS {now ms, ARGV 5 of the next call or -1 at the end, complete until,
--          {member, generation, due ms, ...}}
--         complete until: ms since the epoch; the queue has everything due before it, of each application
--         that this call read; '': everything within the horizon

go_on_when_full(keys.next)
local now = now_ms(ARGV[1])
local end_ms, window, limit, passed = now + ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local APPLICATIONS = 50 -- how many one call reads
local found, complete_until = {}, ''

-- Add the application's next wake-ups to `found`; false when the limit of the answer is reached.
local function fill(application)
  local index = keys.due .. application
  local due, id = filled_until(application)
  due, id = due or 0, id or ''
  local filled = count_until(index, due, id)
  if filled < window then
    local wanted = math.min(window - filled, limit - #found / 3)
    local entries = redis.call('ZRANGE', index, filled, filled + wanted - 1, 'WITHSCORES')
    local near = {}
    for i = 1, #entries, 2 do
      if tonumber(entries[i + 1]) > end_ms then
        break
      end
      near[i], near[i + 1] = entries[i], entries[i + 1]
    end
    if #near / 2 < wanted then
      due, id = end_ms, '\255' -- after every id
    else
      due, id = tonumber(near[#near]), near[#near - 1]
    end
    add_wake_ups(found, application, near)
    write_filled(application, due, id)
  end
  if due < end_ms and (complete_until == '' or due < complete_until) then
    complete_until = due
  end
  return #found / 3 < limit
end

local applications = redis.call('ZRANGEBYSCORE', keys.next, '-inf', end_ms, 'LIMIT', passed, APPLICATIONS)
for _, application in ipairs(applications) do
  if not is_paused(application) and not fill(application) then
    return {now, passed, complete_until, found}
  end
  passed = passed + 1
end
return {now, #applications < APPLICATIONS and -1 or passed, complete_until, found}
