-- upcoming: one page of the due index, in its order, without the timers that a wake-up would not start.
-- KEYS    records, due, running, lanes, waiting
-- ARGV    1 now   2 from ms (inclusive)   3 until, in ms ahead of now (inclusive)
--         4 the member to go on after, due exactly at `from`, or ''   5 limit
-- RETURNS {now ms, last member or '' when there are no more, its due ms, {member, generation, due ms, waits?, ...}}
--         waits: 1 for a timer that waited for its host or application and may try again
-- Left out: running timers within their lease, and timers that wait for another one of their ordering key.
-- An entry without a record has nothing to wake, so it leaves the index.

local now = now_ms(ARGV[1])
local from, to, after, limit = tonumber(ARGV[2]), now + ARGV[3], ARGV[4], tonumber(ARGV[5])

local start
if after ~= '' and tonumber(redis.call('ZSCORE', keys.due, after) or -1) == from then
  start = redis.call('ZRANK', keys.due, after) + 1
else
  -- `after` has moved meanwhile. Begin again at its instant: a second wake-up does no harm.
  start = redis.call('ZCOUNT', keys.due, '-inf', string.format('(%.0f', from))
end

local function is_asleep(member, head)
  if head.state == RUNNING then
    return tonumber(redis.call('ZSCORE', keys.running, member) or 0) > now
  end
  return is_blocked(member, head.lane)
end

local page = redis.call('ZRANGE', keys.due, start, start + limit - 1, 'WITHSCORES')
local found, read = {}, 0
local member, due
for i = 1, #page, 2 do
  if tonumber(page[i + 1]) > to then
    break
  end
  member, due = page[i], tonumber(page[i + 1])
  read = read + 1
  local head, is_there = short_head_of(member)
  if not is_there then
    redis.call('ZREM', keys.due, member)
  elseif not head or not is_asleep(member, head) then
    local n = #found
    -- An unreadable record gets a wake-up, too: begin sets it aside.
    found[n + 1], found[n + 2], found[n + 3] = member, head and head.generation or 0, due
    found[n + 4] = due <= now and redis.call('ZSCORE', keys.waiting, member) and 1 or 0
  end
end
if read < limit then
  member, due = '', 0
end
return {now, member, due, found}
