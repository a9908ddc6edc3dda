-- upcoming: one page of the due index, in its order, without those that have nothing to be woken for yet.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now   2 from ms (inclusive)   3 until, in ms ahead of now (inclusive)
--         4 the member to go on after, due exactly at `from`, or ''   5 limit
-- RETURNS {now ms, last member or '' when there are no more, its due ms, {member, generation, due ms, waits?, ...}}
--         waits: 1 for its host or application, which it tries again
-- Left out: the running ones within their lease, and those that wait for another timer of their ordering key.
-- An entry without a record has nothing to wake: it leaves the index.

local keys = store_keys()
local now = now_ms(ARGV[1])
local from, to, after = tonumber(ARGV[2]), now + ARGV[3], ARGV[4]

local start
if after ~= '' and tonumber(redis.call('ZSCORE', keys.due, after) or -1) == from then
  start = redis.call('ZRANK', keys.due, after) + 1
else
  -- `after` has moved on meanwhile: begin again at its instant, a wake-up more does no harm
  start = redis.call('ZCOUNT', keys.due, '-inf', string.format('(%.0f', from))
end

local function is_asleep(member, head)
  if head.state == RUNNING then
    return tonumber(redis.call('ZSCORE', keys.running, member) or 0) > now
  end
  return is_blocked(keys, member, head.lane)
end

local limit = tonumber(ARGV[5])
local page = redis.call('ZRANGE', keys.due, start, start + limit - 1, 'WITHSCORES')
local found, read = {}, 0
local member, due
for i = 1, #page, 2 do
  if tonumber(page[i + 1]) > to then
    break
  end
  member, due = page[i], tonumber(page[i + 1])
  read = read + 1
  local record = redis.call('GETRANGE', keys.records .. member, 0, HEAD_BYTES)
  local head = record ~= '' and read_head(record)
  if record == '' then
    redis.call('ZREM', keys.due, member)
  elseif not head or not is_asleep(member, head) then
    local n = #found
    -- a wake-up for an unreadable record, too: begin sets it aside
    found[n + 1], found[n + 2], found[n + 3] = member, head and head.generation or 0, due
    found[n + 4] = due <= now and redis.call('ZSCORE', keys.waiting, member) and 1 or 0
  end
end
if read < limit then
  member, due = '', 0
end
return {now, member, due, found}
