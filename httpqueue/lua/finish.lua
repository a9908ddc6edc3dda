-- finish: say how attempts ended: delivered and failed timers go into the archive, the others get their next due time.
-- KEYS    1 record prefix   2 due index   3 outbox   4 archive layer (bits)   5 archive counts
-- ARGV    1 now   2 archive layer number
--         3 msgpack [[member, generation, attempt, outcome, ms, last attempt, [bit positions]], ...]
--           ms: delay until the next attempt (retry), or retention of the record (delivered, failed; 0: none)
-- RETURNS {{1 | 0 an attempt}, ids in the archive layer}
-- An attempt that is no longer the timer's own is refused (0): a late worker changes nothing. So is that of a
-- record that can no longer be read, which the next begin sets aside.

local now = now_ms(ARGV[1])
local archived = 0
local next_dues, finished = {}, {} -- for the due index

local function archive(positions)
  local operations = {}
  for _, position in ipairs(positions) do
    local n = #operations
    operations[n + 1], operations[n + 2], operations[n + 3], operations[n + 4] = 'SET', 'u1', position, 1
  end
  local new = false
  for _, bit in ipairs(redis.call('BITFIELD', KEYS[4], unpack(operations))) do
    new = new or bit == 0
  end
  if new then
    archived = archived + 1
  end
end

local function apply(member, key, head, spec, item)
  local outcome, ms, attempt, positions = item[4], item[5], item[6], item[7]
  local rest = cmsgpack.pack(spec, attempt)
  if outcome == 'retry' then
    head.state, head.due = SCHEDULED, now + ms
    redis.call('SET', key, write_record(head, rest))
    next_dues[#next_dues + 1] = head.due
    next_dues[#next_dues + 1] = member
    redis.call('XADD', KEYS[3], '*', 'timer', member, 'generation', head.generation, 'due', head.due)
    return
  end
  head.state = outcome == 'delivered' and DONE or FAILED
  archive(positions)
  finished[#finished + 1] = member
  if ms > 0 then
    redis.call('SET', key, write_record(head, rest), 'PX', ms)
  else
    redis.call('DEL', key)
  end
end

local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local member, generation, attempt = item[1], item[2], item[3]
  local key = KEYS[1] .. member
  local record = redis.call('GET', key)
  local head = record and read_head(record)
  local spec = head and read_spec(head)
  if spec and head.state == RUNNING and head.generation == generation and head.attempts == attempt then
    apply(member, key, head, spec, item)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
call_for_all('ZADD', KEYS[2], next_dues)
call_for_all('ZREM', KEYS[2], finished)
if archived > 0 then
  redis.call('HINCRBY', KEYS[5], ARGV[2], archived)
end
return {answers, tonumber(redis.call('HGET', KEYS[5], ARGV[2]) or 0)}
