-- overdue: wake-ups that went into the queue long ago and did not start their timers. Some may be lost.
-- KEYS    records, due, next, filled, applications
-- ARGV    1 now   2 how long they are overdue, ms   3 limit   4 how many applications to skip
--         5 due ms and 6 id: in the first application, skip entries up to this one; 0 and '' skip none
-- RETURNS {ARGV 4 of the next call or -1 at the end, its ARGV 5, its ARGV 6,
--          {member, generation, due ms, ...}}

local latest = now_ms(ARGV[1]) - ARGV[2]
local limit, passed, last_due, last_id = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local found = {}

local function read(application)
  local filled_due, filled_id = filled_until(application)
  local index = keys.due .. application
  local first = count_until(index, last_due, last_id)
  local until_filled = filled_due and count_until(index, filled_due, filled_id) or 0
  local wanted = math.min(limit - #found / 3, until_filled - first)
  local entries = wanted > 0 and redis.call('ZRANGE', index, first, first + wanted - 1, 'WITHSCORES') or {}
  local late = {}
  for i = 1, #entries, 2 do
    if tonumber(entries[i + 1]) > latest then
      break
    end
    last_id, last_due = entries[i], tonumber(entries[i + 1])
    late[i], late[i + 1] = entries[i], entries[i + 1]
  end
  add_wake_ups(found, application, late)
end

while #found / 3 < limit do
  local application = redis.call('ZRANGEBYSCORE', keys.next, '-inf', latest, 'LIMIT', passed, 1)[1]
  if not application then
    return {-1, 0, '', found}
  end
  if not is_paused(application) then
    read(application)
  end
  if #found / 3 < limit then
    passed, last_due, last_id = passed + 1, 0, ''
  end
end
return {passed, last_due, last_id, found}
