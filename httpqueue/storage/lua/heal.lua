-- heal: find timers that nothing else wakes: those that lost their worker, those that have waited long for their
-- host, and the first timer of each lane and line that nobody serves.
-- KEYS    records, due, held, next, running, up, outbox, counts, applications, lanes, lines, waiting, probes
-- ARGV    1 now   2 limit of each kind
--         3 how many timers that lost their worker to skip; the other kinds are only looked for at 0
-- RETURNS {{member, generation, due ms, ...} that lost their worker, {member, generation, due ms, host, ...} that wait}
-- The first timers of lanes and lines get outbox entries. A line whose application is not paused gets more of
-- them: whoever resumed it died before `release`.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local limit, skip = tonumber(ARGV[2]), tonumber(ARGV[3])
local since = up_since(now)

local function lost_workers()
  local found = {}
  if now <= since + UP_GRACE_MS then
    return found
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.running, '-inf', now, 'LIMIT', skip, limit)) do
    local head, is_there = short_head_of(member)
    if is_there then
      local n = #found
      found[n + 1], found[n + 2], found[n + 3] = member, head and head.generation or 0, head and head.due or 0
    else
      place_in(nil, member)
      redis.call('ZREM', keys.running, member)
    end
  end
  return found
end

local function long_waiting()
  local found = {}
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.waiting, '-inf', now, 'LIMIT', 0, limit)) do
    local head = short_head_of(member)
    if head and head.state == SCHEDULED then
      local n = #found
      found[n + 1], found[n + 2], found[n + 3], found[n + 4] = member, head.generation, head.due, head.host
    else
      redis.call('ZREM', keys.waiting, member)
    end
  end
  return found
end

local function probe(name)
  local kind, rest = string.match(name, '^(%a+):(.*)$')
  if kind ~= 'lane' and kind ~= 'application' then
    redis.call('ZREM', keys.probes, name) -- somebody else wrote it
    return
  end
  local key = (kind == 'lane' and keys.lanes or keys.lines) .. rest
  if kind == 'application' and not is_paused(rest) then
    local members = redis.call('ZPOPMIN', key, limit)
    for i = 1, #members, 2 do
      wake(members[i], now)
    end
    if #members < 2 * limit then
      redis.call('ZREM', keys.probes, name) -- otherwise the next call goes on
    end
    return
  end
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  local head = first and short_head_of(first)
  while first and not head do
    redis.call('ZREM', key, first)
    first = redis.call('ZRANGE', key, 0, 0)[1]
    head = first and short_head_of(first)
  end
  if not first then
    redis.call('ZREM', keys.probes, name)
    return
  end
  redis.call('ZADD', keys.probes, math.max(head.due, now) + PROBE_MS, name)
  if head.due <= now then
    wake(first, now)
  end
end

local lost = lost_workers()
if skip > 0 then
  return {lost, {}}
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', keys.probes, '-inf', now, 'LIMIT', 0, limit)) do
  probe(name)
end
local waiting = long_waiting()
write_changes()
return {lost, waiting}
