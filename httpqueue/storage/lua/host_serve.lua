-- host_serve: take permits back, let wake-ups join the host's line, and grant permits to the first of the line.
-- KEYS    rules, line, permits, last_start, served
-- ARGV    1 now   2 how many calls the worker can start   3 lease of a permit, ms
--         4 msgpack [member, ...] that have ended: they leave permits and line
--         5 msgpack [member, due ms, ...] that ask: they join the line unless they have a permit
-- RETURNS {now ms, how many are left in the line, {member, ...} that got a permit, {member, start ms, ...},
--         the first of the line or ''}
-- The last has all that asked and got none. start: when the rate lets it start if nothing changes; 0 when
-- something else holds it up: the concurrency, a pause, the worker's own room. When the rate holds the line up,
-- its first member is there, too: somebody must come back for it.

go_on_when_full(keys.permits)
local now, want, lease = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ended, asking = cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])
local rules = read_rules()
local had_line = redis.call('EXISTS', keys.line) == 1

-- After the clock has gone back, the next start is at most one distance away.
local function heed_clock()
  if rules.rate and tonumber(redis.call('GET', keys.last_start) or 0) > now + ROUNDING_MS then
    note_start(rules, now)
  end
end

local function join()
  for i = 1, #asking, 2 do
    local member, due = asking[i], asking[i + 1]
    if not redis.call('ZSCORE', keys.permits, member) then
      redis.call('ZADD', keys.line, 'LT', due, member) -- LT: one that lost its worker stays first
    end
  end
end

-- How many calls the rate lets start now, if the next start is at `start`.
local function started_by_now(start)
  if not rules.rate then
    return math.huge
  end
  return math.floor((now - start + ROUNDING_MS) * rules.rate / 1000) + 1
end

local function grant(count)
  local granted, leases = {}, {}
  if count < 1 then
    return granted
  end
  local popped = redis.call('ZPOPMIN', keys.line, count)
  for i = 1, #popped, 2 do
    granted[#granted + 1] = popped[i]
    leases[#leases + 1] = now + lease
    leases[#leases + 1] = popped[i]
  end
  if #granted > 0 then
    call_for_all('ZADD', keys.permits, leases)
    redis.call('PEXPIRE', keys.permits, FORGET_HOST_MS) -- they would stay for ever if all workers were lost
  end
  return granted
end

-- {member, start ms, ...} of those that asked and have to wait. start: nil when not the rate holds the line up.
local function refusals(granted, start)
  local named, refused = {}, {}
  for _, member in ipairs(granted) do
    named[member] = true
  end
  local function refuse(member)
    local rank = start and not named[member] and redis.call('ZRANK', keys.line, member)
    if not named[member] then
      named[member] = true
      refused[#refused + 1] = member
      refused[#refused + 1] = rank and start_of_rank(rules, start, rank) or 0
    end
  end
  for i = 1, #asking, 2 do
    refuse(asking[i])
  end
  if start then
    for _, member in ipairs(redis.call('ZRANGE', keys.line, 0, 0)) do
      refuse(member)
    end
  end
  return refused
end

call_for_all('ZREM', keys.permits, ended)
call_for_all('ZREM', keys.line, ended)
return_expired(now)
join()
heed_clock()
local start = next_start(rules, now, had_line and now - CATCH_UP_MS or now)
local free = rules.paused and 0 or free_permits(rules)
local granted = grant(math.min(want, free, started_by_now(start)))
if rules.rate and #granted > 0 then
  local last = start + (#granted - 1) * 1000 / rules.rate
  note_start(rules, last)
  start = last + 1000 / rules.rate
end
local is_full = free <= #granted -- or paused
local is_early = rules.rate and start > now + ROUNDING_MS
local waiting = redis.call('ZCARD', keys.line)
if waiting > 0 and (#granted > 0 or is_full or is_early) then
  -- Not when only this worker had no room: then others have to be woken.
  redis.call('SET', keys.served, now, 'PX', FORGET_HOST_MS)
end
return {now, waiting, granted, refusals(granted, is_early and not is_full and start),
  redis.call('ZRANGE', keys.line, 0, 0)[1] or ''}
