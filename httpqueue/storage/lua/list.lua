-- list: one page of all timers that have a record, in the order of their due times, then of their names.
-- KEYS    records, due, finished, retention
-- ARGV    1 now   2 from ms (inclusive)   3 until ms (inclusive)   4 the member to go on after, due at `from`, or ''
--         5 how many index entries to look at   6 application or ''   7 letters of the wanted states
-- RETURNS {now ms, last member looked at or '' when there are no more, its due ms, {member, record, ...}}
-- Two indices are merged: a timer keeps its place in the order when it finishes between two pages.

local now = now_ms(ARGV[1])
local from, to, after, budget = tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local application, states = ARGV[6], ARGV[7]

-- As Redis orders members of one score: byte by byte. Lua's own < follows the locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

-- The rank of the first entry behind (from, after).
local function first_rank(index)
  local low = redis.call('ZCOUNT', index, '-inf', string.format('(%.0f', from))
  if after == '' then
    return low
  end
  local high = low + redis.call('ZCOUNT', index, string.format('%.0f', from), string.format('%.0f', from))
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_before(after, redis.call('ZRANGE', index, middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local function read(index)
  local first = first_rank(index)
  return redis.call('ZRANGE', index, first, first + budget - 1, 'WITHSCORES')
end

local due, finished = {}, {}
if string.find(states, '[sr]') then
  due = read(keys.due)
end
if string.find(states, '[dfc]') then
  finished = read(keys.finished)
end

local function next_entry(i, j)
  if not due[i] then
    return finished, false
  end
  if not finished[j] then
    return due, true
  end
  local one, other = tonumber(due[i + 1]), tonumber(finished[j + 1])
  local is_due_first = one < other or one == other and is_before(due[i], finished[j])
  return is_due_first and due or finished, is_due_first
end

local found, i, j, looked_at = {}, 1, 1, 0
local member, score = '', 0
local limit_ms = to == '' and math.huge or tonumber(to)
local is_beyond = false
while looked_at < budget and (due[i] or finished[j]) do
  local entries, is_due = next_entry(i, j)
  local k = is_due and i or j
  if tonumber(entries[k + 1]) > limit_ms then
    is_beyond = true
    break
  end
  member, score = entries[k], tonumber(entries[k + 1])
  looked_at = looked_at + 1
  if is_due then
    i = i + 2
  else
    j = j + 2
  end
  if application == '' or application_of(member) == application then
    local record = redis.call('GET', keys.records .. member)
    local head = record and read_head(record)
    if head and string.find(states, head.state, 1, true) and not is_over(member, head, now) then
      found[#found + 1] = member
      found[#found + 1] = record
    end
  end
end
if is_beyond or looked_at < budget then
  member, score = '', 0
end
return {now, member, score, found}
