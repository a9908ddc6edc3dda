-- list: one page of an application's timers that have a record, ordered by due time, then by id.
-- KEYS    records, due, held, ended, retention
-- ARGV    1 now   2 application   3 letters of the wanted states   4 from ms (inclusive)   5 until ms (inclusive) or ''
--         6 '', or an id: of the timers due at `from`, skip those up to this id
--         7 how many index entries to read at most
-- RETURNS {now ms, id of the last entry read or '' when there are no more, its due ms, {id, record, ...}}
-- The indices are merged, so a timer that finishes between two pages keeps its place in the list.

local now = now_ms(ARGV[1])
local application, states, from, after, budget =
  ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[6], tonumber(ARGV[7])
local latest = ARGV[5] == '' and math.huge or tonumber(ARGV[5])

-- {{id, due ms, ...}, position of the next entry in it}
local function read(index)
  local first = count_until(index, from, after)
  return {redis.call('ZRANGE', index, first, first + budget - 1, 'WITHSCORES'), 1}
end

local sources = {}
if string.find(states, 's', 1, true) then
  sources[1] = read(keys.due .. application)
end
if string.find(states, '[sr]') then -- whatever runs is held
  sources[#sources + 1] = read(keys.held .. application)
end
for letter in string.gmatch(states, '[dfc]') do
  sources[#sources + 1] = read(keys.ended .. letter .. ':' .. application)
end

-- The next entry of all sources (id, due ms), which is then taken; nil when there is none.
local function take()
  local best, id, due
  for _, source in ipairs(sources) do
    local entries, i = source[1], source[2]
    local other = entries[i + 1] and tonumber(entries[i + 1])
    if other and (not best or other < due or other == due and is_before(entries[i], id)) then
      best, id, due = source, entries[i], other
    end
  end
  if best then
    best[2] = best[2] + 2
  end
  return id, due
end

local found, looked_at, bytes = {}, 0, 0
local id, due = '', 0
local is_all = true
while true do
  if looked_at == budget or bytes > MAX_ANSWER_BYTES then
    is_all = false
    break
  end
  local next_id, next_due = take()
  if not next_id or next_due > latest then
    break
  end
  id, due = next_id, next_due
  looked_at = looked_at + 1
  local member = application .. ':' .. id
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  if head and string.find(states, head.state, 1, true) and not is_over(member, head, now) then
    found[#found + 1] = id
    found[#found + 1] = record
    bytes = bytes + #record
  end
end
if is_all then
  id, due = '', 0
end
return {now, id, due, found}
