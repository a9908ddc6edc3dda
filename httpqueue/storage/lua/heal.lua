-- heal: wake timers that nothing else wakes: those that lost their worker, the first timer of each lane and
-- line that nobody serves, and those whose reserved start passed without them.
-- KEYS    records, due, held, next, running, up, outbox, counts, lanes, lines, waiting, probes
-- ARGV    1 now   2 how long ago a reserved start passed, ms   3 limit of each kind
--         4 how many timers that lost their worker to skip; the other kinds are only looked for at 0
-- RETURNS {member, generation, due ms, ...} of timers that lost their worker. The others get outbox entries.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local late, limit, skip = now - ARGV[2], ARGV[3], tonumber(ARGV[4])
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

local function probe(name)
  local key = string.sub(name, 1, 5) == 'lane:' and keys.lanes .. string.sub(name, 6) or keys.lines .. name
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  while first and not short_head_of(first) do
    redis.call('ZREM', key, first)
    first = redis.call('ZRANGE', key, 0, 0)[1]
  end
  if not first then
    redis.call('ZREM', keys.probes, name)
    return
  end
  redis.call('ZADD', keys.probes, now + PROBE_MS, name)
  wake(first, now)
end

local lost = lost_workers()
if skip > 0 then
  return lost
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', keys.probes, '-inf', now, 'LIMIT', 0, limit)) do
  probe(name)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.waiting, '-inf', late, 'LIMIT', 0, limit)) do
  wake(member, now)
end
write_changes()
return lost
