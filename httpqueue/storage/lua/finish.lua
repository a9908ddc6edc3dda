-- finish: say how attempts ended, and what becomes of their timers.
-- KEYS    records, due, running, finished, retention, outbox, counts, lanes, lines, permits, starts, health, waiting,
--         archive_layers, archive_counts
-- ARGV    1 now   2 archive layer number   3 attempts a record keeps
--         4 1: answer with the timers that may start now; otherwise the relay is told of them
--         5 msgpack [[member, generation, attempt, what then, ms, log entry, delivered?, result, [bit positions],
--           callback], ...]
--           what then, ms: 'retry', delay   'recur', next due ms   'done' or 'failed', retention of the record (0: none)
--           result: status or error; '' when no call was made
--           callback: [member, spec, timeout ms, host] of the timer that tells of the end, or []
-- RETURNS {{1 | 0 an attempt}, ids in the archive layer, {member, generation, ...} that may start now}
-- An attempt that no longer belongs to its worker is refused (0), so a late worker changes nothing. So is that of
-- a record that can no longer be read, which the next begin sets aside.

local now = now_ms(ARGV[1])
local layer, kept_attempts, items = ARGV[2], tonumber(ARGV[3]), cmsgpack.unpack(ARGV[5])
unblocked = ARGV[4] == '1' and {} or nil
local archived = 0
local dues, ended, gone, finished, retention = {}, {}, {}, {}, {} -- for the indices, written at the end
local notes = {} -- host -> what its calls gave

local function archive(positions)
  local operations = {}
  for _, position in ipairs(positions) do
    local n = #operations
    operations[n + 1], operations[n + 2], operations[n + 3], operations[n + 4] = 'SET', 'u1', position, 1
  end
  for _, bit in ipairs(redis.call('BITFIELD', keys.archive_layers .. layer, unpack(operations))) do
    if bit == 0 then
      archived = archived + 1
      return
    end
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

-- The timer is scheduled again, for head.due.
local function go_on(member, head, rest)
  head.state = SCHEDULED
  write_record(member, head, rest)
  dues[#dues + 1] = head.due
  dues[#dues + 1] = member
  count_move(member, RUNNING, SCHEDULED)
  tell_relay(member, head)
end

local function store_callback(callback)
  local member, spec, timeout, host = unpack(callback)
  if not member or redis.call('EXISTS', keys.records .. member) == 1 then
    return
  end
  local head = {
    state = SCHEDULED, generation = 0, attempts = 0, due = now, timeout = timeout, lane = '', host = host
  }
  write_record(member, head, cmsgpack.pack(spec))
  redis.call('ZADD', keys.due, head.due, member)
  tell_relay(member, head)
  count_move(member, nil, SCHEDULED)
end

local function recur(member, head, rest, next_due)
  head.generation, head.attempts, head.due = head.generation + 1, 0, next_due
  leave_lane(member, head.lane, now)
  join_lane(member, head)
  go_on(member, head, rest)
end

local function end_timer(member, head, rest, state, kept_ms)
  head.state = state
  gone[#gone + 1] = member
  leave_lane(member, head.lane, now)
  if kept_ms > 0 then
    write_record(member, head, rest)
    finished[#finished + 1] = head.due
    finished[#finished + 1] = member
    retention[#retention + 1] = now + kept_ms
    retention[#retention + 1] = member
    count_move(member, RUNNING, state)
  else
    redis.call('DEL', keys.records .. member)
    count_move(member, RUNNING, nil)
  end
end

local function note_call(host, member, is_delivered, result)
  local note = notes[host]
  if not note then
    note = {failures = 0, members = {}}
    notes[host] = note
  end
  note.members[#note.members + 1] = member
  if result ~= '' then
    note.result = result
    note.delivered = note.delivered or is_delivered
    note.failures = is_delivered and 0 or note.failures + 1
  end
end

local function write_health(host, note)
  local known = redis.call('HGET', keys.health, host)
  local failures = 0
  if known and not note.delivered then
    local ok, before = pcall(cmsgpack.unpack, known)
    failures = ok and before[1] or 0
  end
  redis.call('HSET', keys.health, host, cmsgpack.pack({failures + note.failures, now, note.result}))
end

-- Calls to a host have ended: their permits are free, and as many timers of its line are woken.
local function leave_host(host, note)
  if note.result then
    write_health(host, note)
  end
  if redis.call('EXISTS', keys.permits .. host) == 1 then
    call_for_all('ZREM', keys.permits .. host, note.members)
  end
  if redis.call('EXISTS', host_line(host)) == 1 then
    local next = redis.call('ZPOPMIN', host_line(host), #note.members)
    for i = 1, #next, 2 do
      wake(next[i], now)
    end
  end
end

local function settle(member, head, rest, what, ms, positions, callback)
  if what == 'retry' then
    head.due = now + ms
    go_on(member, head, rest)
    return
  end
  store_callback(callback)
  if what == 'recur' then
    recur(member, head, rest, ms)
  else
    archive(positions)
    end_timer(member, head, rest, what == 'done' and DONE or FAILED, ms)
  end
end

local may_wait = redis.call('EXISTS', keys.waiting) == 1
local answers = {}
for i, item in ipairs(items) do
  local member, generation, attempt, what, ms, entry, is_delivered, result, positions, callback = unpack(item)
  local head = head_of(member)
  local spec = head and read_spec(head)
  answers[i] = 0
  if spec and head.state == RUNNING and head.generation == generation and head.attempts == attempt then
    ended[#ended + 1] = member
    note_call(head.host, member, is_delivered, result)
    if may_wait then -- its lease ran out, it was woken again and held up, and then its worker came back
      leave_lines(member, head.host)
    end
    settle(member, head, with_attempt(head.rest, spec, entry), what, ms, positions, callback)
    answers[i] = 1
  end
end
call_for_all('ZREM', keys.running, ended)
call_for_all('ZREM', keys.due, gone)
call_for_all('ZADD', keys.due, dues)
call_for_all('ZADD', keys.finished, finished)
call_for_all('ZADD', keys.retention, retention)
for host, note in pairs(notes) do
  leave_host(host, note)
end
write_counts()
if archived > 0 then
  redis.call('HINCRBY', keys.archive_counts, layer, archived)
end
return {answers, tonumber(redis.call('HGET', keys.archive_counts, layer) or 0), unblocked or {}}
