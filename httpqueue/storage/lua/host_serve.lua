-- host_serve: take permits back, let wake-ups join the host's line, and grant permits to the first of the line.
-- KEYS    rules, line, permits, pace, served
-- ARGV    1 now   2 how many calls the worker can start   3 lease of a permit, ms
--         4 msgpack [member, ...] that have ended: they leave the permits, or the line without a permit
--         5 msgpack [member, due ms, ...] that ask: they join the line
-- RETURNS {now ms, how many are left in the line, {member, ...} that got a permit, {member, start ms, ...},
--         the first of the line or ''}
-- The fourth has all that asked and got none. start: when the rate lets it start if nothing changes; 0 when
-- something else holds it up: the concurrency, a pause, the worker's own room. When the rate holds the line up,
-- its first member is there, too: somebody must come back for it.

go_on_when_full(keys.permits)
local now, want, lease = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ended, asking = cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])
local rules = read_rules()
local had_line = redis.call('EXISTS', keys.line) == 1

-- After the clock has gone back, the next start is at most one distance away.
local function heed_clock()
  if rules.rate and tonumber(redis.call('HGET', keys.pace, 'last') or 0) > now + ROUNDING_MS then
    note_pace('last', now)
  end
end

-- A retry may ask before the permit of the attempt before it was given back. So it joins the line all the same.
local function join()
  for i = 1, #asking, 2 do
    redis.call('ZADD', keys.line, 'LT', asking[i + 1], asking[i]) -- LT: one that lost its worker stays first
  end
end

-- How many calls the rate lets start now, if the next start is at `start`.
local function started_by_now(start)
  if not rules.rate then
    return math.huge
  end
  return math.floor((now - start + ROUNDING_MS) * rules.rate / 1000) + 1
end

-- Who still has a permit waits until it is given back.
local function first_of_line(count)
  local found, rank = {}, 0
  while #found < count do
    local members = redis.call('ZRANGE', keys.line, rank, rank + count - #found - 1)
    if #members == 0 then
      break
    end
    for _, member in ipairs(members) do
      if not redis.call('ZSCORE', keys.permits, member) then
        found[#found + 1] = member
      end
    end
    rank = rank + #members
  end
  return found
end

local function grant(count)
  local granted, leases = first_of_line(math.min(count, redis.call('ZCARD', keys.line))), {}
  for _, member in ipairs(granted) do
    leases[#leases + 1] = now + lease
    leases[#leases + 1] = member
  end
  if #granted > 0 then
    call_for_all('ZREM', keys.line, granted)
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

for _, member in ipairs(ended) do
  if redis.call('ZREM', keys.permits, member) == 0 then
    redis.call('ZREM', keys.line, member)
  end
end
return_expired(now)
join()
heed_clock()
local start = next_start(rules, now, had_line and now - CATCH_UP_MS or now)
local free = rules.paused and 0 or free_permits(rules)
local granted = grant(math.min(want, free, started_by_now(start)))
if rules.rate and #granted > 0 then
  local last = start + (#granted - 1) * 1000 / rules.rate
  note_pace('last', last)
  start = last + 1000 / rules.rate
end
local is_full = free <= #granted -- or paused
local is_early = rules.rate and start > now + ROUNDING_MS
local waiting = redis.call('ZCARD', keys.line)
if waiting > 0 and (#granted > 0 or is_full or is_early) then
  -- Not when only this worker had no room: then others have to be woken.
  redis.call('SET', keys.served, now, 'PX', FORGET_HOST_MS)
end
return {
  now, waiting, granted, refusals(granted, is_early and not is_full and start),
  redis.call('ZRANGE', keys.line, 0, 0)[1] or ''
}
