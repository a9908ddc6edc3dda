-- finish: say how attempts ended: delivered and failed timers go into the archive, the others get their next due time.
-- KEYS    those of the store, see common.lua, then   18 archive layer (bits)   19 archive counts
-- ARGV    1 now   2 archive layer number   3 attempts a record keeps
--         4 msgpack [[member, generation, attempt, outcome, ms, attempt's log entry, [bit positions], next due ms,
--           status or error, '' when no call was made, callback], ...]
--           ms: delay until the next attempt (retry), or retention of the record (delivered, failed; 0: none)
--           next due ms: of the next run of a recurring timer, 0: there is none
--           callback: [member, spec, timeout ms] of the timer that tells of the end, or []
--         5 1: the worker itself tries those that the end of these attempts lets start
-- RETURNS {{1 | 0 an attempt}, ids in the archive layer, {member, generation, ...} to be tried by the worker}
-- An attempt that is no longer the timer's own is refused (0): a late worker changes nothing. So is that of a
-- record that can no longer be read, which the next begin sets aside.

local keys = store_keys()
local now = now_ms(ARGV[1])
local kept_attempts = tonumber(ARGV[3])
keys.now, keys.woken = now, ARGV[5] == '1' and {} or nil
local counts = counter(keys.counts)
local archived = 0
local next_dues, ended, gone, finished, retention = {}, {}, {}, {}, {} -- for the indices
local hosts, by_authority = {}, {}

local function archive(positions)
  local operations = {}
  for _, position in ipairs(positions) do
    local n = #operations
    operations[n + 1], operations[n + 2], operations[n + 3], operations[n + 4] = 'SET', 'u1', position, 1
  end
  local new = false
  for _, bit in ipairs(redis.call('BITFIELD', KEYS[18], unpack(operations))) do
    new = new or bit == 0
  end
  if new then
    archived = archived + 1
  end
end

-- `rest` of the record with one attempt more in its log, of which the youngest are kept.
local function with_attempt(rest, spec, entry)
  if #rest <= #spec + 5 then -- the log is empty
    return rest .. cmsgpack.pack(entry)
  end
  local parts = {pcall(cmsgpack.unpack, rest)} -- true, spec, attempts
  if not parts[1] then
    return cmsgpack.pack(spec, entry)
  end
  local last = #parts
  return cmsgpack.pack(spec, unpack(parts, math.max(3, last - kept_attempts + 2), last)) .. cmsgpack.pack(entry)
end

local function go_on(member, head, rest)
  head.state = SCHEDULED
  redis.call('SET', keys.records .. member, write_record(head, rest))
  next_dues[#next_dues + 1] = head.due
  next_dues[#next_dues + 1] = member
  counts.move(member, RUNNING, SCHEDULED)
  tell_relay(keys.outbox, member, head)
end

local function call_back(callback)
  local member, spec, timeout = unpack(callback)
  if member and redis.call('EXISTS', keys.records .. member) == 0 then
    local head = {state = SCHEDULED, generation = 0, attempts = 0, due = now, timeout = timeout, lane = ''}
    schedule(keys, counts, member, head, cmsgpack.pack(spec), nil)
  end
end

local function end_run(member, head, rest, item)
  local outcome, ms, positions, next_due = item[4], item[5], item[7], item[8]
  call_back(item[10])
  if next_due > 0 then
    head.generation, head.attempts, head.due = head.generation + 1, 0, next_due
    leave_lane(keys, member, head.lane)
    join_lane(keys, member, head)
    go_on(member, head, rest)
    return
  end
  head.state = outcome == 'delivered' and DONE or FAILED
  archive(positions)
  gone[#gone + 1] = member
  leave_lane(keys, member, head.lane)
  if ms > 0 then
    redis.call('SET', keys.records .. member, write_record(head, rest))
    finished[#finished + 1] = head.due
    finished[#finished + 1] = member
    retention[#retention + 1] = now + ms
    retention[#retention + 1] = member
    counts.move(member, RUNNING, head.state)
  else
    redis.call('DEL', keys.records .. member)
    counts.move(member, RUNNING, nil)
  end
end

-- One note a host, found by the authority as it is written: few of them differ.
local function note_of(spec)
  local authority = authority_of(spec)
  if not by_authority[authority] then
    local host = host_of(spec)
    hosts[host] = hosts[host] or {failures = 0, members = {}}
    by_authority[authority] = hosts[host]
  end
  return by_authority[authority]
end

local function note_host(spec, member, item)
  local note = note_of(spec)
  note.members[#note.members + 1] = member
  if item[9] == '' then
    return
  end
  note.result = item[9]
  note.delivered = note.delivered or item[4] == 'delivered'
  note.failures = item[4] == 'delivered' and 0 or note.failures + 1
end

local function note_health(host, note)
  local known = redis.call('HGET', keys.health, host)
  local failures = 0
  if known and not note.delivered then
    local ok, before = pcall(cmsgpack.unpack, known)
    failures = ok and before[1] or 0
  end
  redis.call('HSET', keys.health, host, cmsgpack.pack({failures + note.failures, now, note.result}))
end

-- What the host's last calls gave, and as many of its line as calls have ended.
local function leave_host(host, note)
  if note.result then
    note_health(host, note)
  end
  if redis.call('EXISTS', keys.calls .. host) == 1 then
    call_for_all('ZREM', keys.calls .. host, note.members)
  end
  local line = keys.lines .. 'host:' .. host
  if redis.call('EXISTS', line) == 1 then
    local next = redis.call('ZPOPMIN', line, #note.members)
    for i = 1, #next, 2 do
      wake(keys, next[i])
    end
  end
end

local may_wait = redis.call('EXISTS', keys.waiting) == 1
local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[4])) do
  local member, generation, attempt = item[1], item[2], item[3]
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local spec = head and read_spec(head)
  answers[i] = 0
  if spec and head.state == RUNNING and head.generation == generation and head.attempts == attempt then
    local rest = with_attempt(head.rest, spec, item[6])
    ended[#ended + 1] = member
    note_host(spec, member, item)
    if may_wait then -- its lease ran out, it was woken again and held up, and then its worker came back
      leave_lines(keys, member, spec)
    end
    if item[4] == 'retry' then
      head.due = now + item[5]
      go_on(member, head, rest)
    else
      end_run(member, head, rest, item)
    end
    answers[i] = 1
  end
end
call_for_all('ZREM', keys.running, ended)
call_for_all('ZREM', keys.due, gone)
call_for_all('ZADD', keys.due, next_dues)
call_for_all('ZADD', keys.finished, finished)
call_for_all('ZADD', keys.retention, retention)
for host, note in pairs(hosts) do
  leave_host(host, note)
end
counts.write()
if archived > 0 then
  redis.call('HINCRBY', KEYS[19], ARGV[2], archived)
end
return {answers, tonumber(redis.call('HGET', KEYS[19], ARGV[2]) or 0), keys.woken or {}}
