-- upcoming: one page of the due index, in its order.
-- KEYS    1 record prefix   2 due index
-- ARGV    1 now   2 from ms (inclusive)   3 until, in ms ahead of now (inclusive)
--         4 the member to go on after, due exactly at `from`, or ''   5 limit
-- RETURNS {now ms, last member or '' when there are no more, its due ms, {member, generation, due ms, ...}}
-- An entry without a record has nothing to wake: it leaves the index.

local now = now_ms(ARGV[1])
local from, to, after = tonumber(ARGV[2]), now + ARGV[3], ARGV[4]

local start
if after ~= '' and tonumber(redis.call('ZSCORE', KEYS[2], after) or -1) == from then
  start = redis.call('ZRANK', KEYS[2], after) + 1
else
  -- `after` has moved on meanwhile: begin again at its instant, a wake-up more does no harm
  start = redis.call('ZCOUNT', KEYS[2], '-inf', string.format('(%.0f', from))
end

local limit = tonumber(ARGV[5])
local page = redis.call('ZRANGE', KEYS[2], start, start + limit - 1, 'WITHSCORES')
local found, read = {}, 0
local member, due
for i = 1, #page, 2 do
  if tonumber(page[i + 1]) > to then
    break
  end
  member, due = page[i], tonumber(page[i + 1])
  read = read + 1
  local record = redis.call('GETRANGE', KEYS[1] .. member, 0, HEAD_BYTES)
  if record == '' then
    redis.call('ZREM', KEYS[2], member)
  else
    local head = read_head(record)
    local n = #found
    -- a wake-up for an unreadable record, too: begin sets it aside
    found[n + 1], found[n + 2], found[n + 3] = member, head and head.generation or 0, due
  end
end
if read < limit then
  member, due = '', 0
end
return {now, member, due, found}
