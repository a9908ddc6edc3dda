-- Functions that all scripts share: scripts.py puts this file before each of them. The table `keys` has the
-- keys that a script names in its header (see scripts.py).
--
-- A record is a sequence of MessagePack values, so that its head can be changed without touching the rest:
--   format version, state letter, generation, attempts, lost, due ms, timeout ms (0: the worker's default),
--   ordering key ('': none), host, nonce, holder ('': nobody) | spec (JSON)
--   | attempts (JSON each, the oldest first)
-- A pointer is what a timer's home has instead when the timer is in the partition of its ordering key:
--   format version, 'p', partition, nonce of the timer that was last created
-- `lost` counts the workers that were lost in this attempt. `holder` names the worker and the `begin` call
-- that lead the attempt. All strings are MessagePack's old raw type: cmsgpack does not know the bin type.
-- A `member` is application:id, the name of a timer. The indices of one application hold ids alone.

local FORMAT = 1
local SCHEDULED, RUNNING, DONE, FAILED, CANCELLED = 's', 'r', 'd', 'f', 'c'
local STATES = {[SCHEDULED] = true, [RUNNING] = true, [DONE] = true, [FAILED] = true, [CANCELLED] = true}
local HEAD_VALUES = 11
local HEAD_BYTES = 640 -- no head is longer than this
local BYTES = 'b' -- in `counts`, in the place of a state letter: how many bytes an application's records have
local PENDING = ':p' -- in `counts`: how many timers of all applications have not ended
local TURN = '-inf' -- the score, in a lane, of the timer that has the turn, whatever its due time
local MAX_ARGUMENTS = 4000 -- even, and below what Lua can unpack
local MAX_ANSWER_BYTES = 4000000 -- a longer answer would block the server too long
local PROBE_MS = 10000 -- how long nobody serves a lane or line until heal wakes its first timer
local WAIT_PROBE_MS = 60000 -- how often heal asks a host whether it still knows that a timer waits
local POINTER_CHECK_MS = 60000 -- when heal looks whether there is a record where a pointer points to
local OUTBOX_CHANNEL = 'hq:outbox'
local WAKE_CHANNEL = 'hq:wake'
local SILENCE_MS = 5000 -- when nobody has called the store for this long, it was away
local UP_GRACE_MS = 15000 -- after that, no running timer is taken over for this long

-- A server at its maxmemory refuses commands that need memory, except in a script that has already written.
-- So a script that must go on (it ends timers or frees memory) first does a write that changes nothing.
local function go_on_when_full(key)
  redis.call('ZREM', key, '')
end

-- The time in ms since the epoch: `given`, or this server's TIME when it is ''.
local function now_ms(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A due time as Python sends it (ms; whether they count from now) -> ms since the epoch.
local function instant_ms(ms, is_delay, now)
  return is_delay and now + ms or ms
end

-- Call a command with any number of arguments, 4,000 at a time. `key` is nil when the arguments are keys.
local function call_for_all(command, key, arguments)
  for first = 1, #arguments, MAX_ARGUMENTS do
    local last = math.min(first + MAX_ARGUMENTS - 1, #arguments)
    if key then
      redis.call(command, key, unpack(arguments, first, last))
    else
      redis.call(command, unpack(arguments, first, last))
    end
  end
end

-- The key of a wake-up's arq job. A wake-up id begins with the hash tag that ends the prefix of the jobs' keys.
-- nil: it is no wake-up id of this partition. The job may be in another slot, and its definition has to be read.
local function job_key(wake_up_id)
  local tag = string.match(keys.jobs, '{%d+}$')
  if string.match(wake_up_id, '^{%d+}[^:]*:[^:]*:%d+$') and string.sub(wake_up_id, 1, #tag) == tag then
    return keys.jobs .. string.sub(wake_up_id, #tag + 1)
  end
end

-- record -> {state, generation, attempts, lost, due, timeout, lane, host, nonce, holder, rest, size}; nil when
-- the record cannot be read. `lane` is the ordering key. `rest` is the packed spec and attempts.
local function read_head(record)
  local ok, next, format, state, generation, attempts, lost, due, timeout, lane, host, nonce, holder =
    pcall(cmsgpack.unpack_limit, record, HEAD_VALUES)
  -- Almost any bytes are valid MessagePack, so the types of the values are checked, too.
  if not ok or format ~= FORMAT or not STATES[state] or type(generation) ~= 'number' or type(attempts) ~= 'number'
    or type(lost) ~= 'number' or type(due) ~= 'number' or type(timeout) ~= 'number' or type(lane) ~= 'string'
    or type(host) ~= 'string' or type(nonce) ~= 'string' or type(holder) ~= 'string' or next < 0 then
    return nil
  end
  return {
    state = state, generation = generation, attempts = attempts, lost = lost, due = due, timeout = timeout,
    lane = lane, host = host, nonce = nonce, holder = holder, rest = string.sub(record, next + 1), size = #record
  }
end

-- record -> partition, nonce; nil when it is no pointer, or a damaged one.
local function read_pointer(record)
  local ok, _, format, kind, partition, nonce = pcall(cmsgpack.unpack_limit, record, 4)
  if ok and format == FORMAT and kind == 'p' and type(partition) == 'number' and partition >= 0
    and partition % 1 == 0 and type(nonce) == 'string' then
    return partition, nonce
  end
end

-- Whether a record is of the next format: a newer httpqueue wrote it, which runs beside this one. See
-- docs/adr/0023.
local function is_newer(record)
  local ok, _, format, kind = pcall(cmsgpack.unpack_limit, record, 2)
  return ok and format == FORMAT + 1 and type(kind) == 'string'
end

-- The head of a timer's record; nil or false when there is no readable record.
local function head_of(member)
  local record = redis.call('GET', keys.records .. member)
  return record and read_head(record)
end

-- The same without reading a long spec and attempts: `rest` and `size` are too short. Also returns whether a record exists.
local function short_head_of(member)
  local record = redis.call('GETRANGE', keys.records .. member, 0, HEAD_BYTES)
  return record ~= '' and read_head(record) or nil, record ~= ''
end

-- head -> spec (JSON); nil when it cannot be read.
local function read_spec(head)
  local ok, _, spec = pcall(cmsgpack.unpack_limit, head.rest, 1)
  return ok and type(spec) == 'string' and spec or nil
end

-- The retention that a spec (JSON) wants for a delivered or cancelled timer, ms; nil: none. Its retention is
-- its last member, so that it ends with the last two braces: the body, which may be long, is not decoded.
local function done_ms_of(spec)
  local last = string.sub(spec, -100)
  return tonumber(string.match(last, '"retention":{"done_ms":(%d+)}}$')
    or string.match(last, '"retention":{"done_ms":(%d+),"failed_ms":%d+}}$'))
end

local function new_head(generation, due, timeout, lane, host, nonce)
  return {
    state = SCHEDULED, generation = generation, attempts = 0, lost = 0, due = due, timeout = timeout, lane = lane,
    host = host, nonce = nonce, holder = ''
  }
end

local function pack_record(head, rest)
  return cmsgpack.pack(
    FORMAT, head.state, head.generation, head.attempts, head.lost, head.due, head.timeout, head.lane, head.host,
    head.nonce, head.holder) .. rest
end

-- The version that clients see, an ETag without its quotes: nonce.generation.attempts.state
local function version_of(head)
  return string.format('%s.%.0f.%.0f.%s', head.nonce, head.generation, head.attempts, head.state)
end

-- What is no member at all (somebody else wrote it) has an application and the id ''. So it stops no script.
local function application_of(member)
  return string.match(member, '^[^:]*')
end

local function id_of(member)
  return string.match(member, ':(.*)$') or ''
end

local function is_finished(head)
  return head.state ~= SCHEDULED and head.state ~= RUNNING
end

-- The indices of an application. Every unfinished timer is in `due` or in `held`.
--   due    it waits for nothing but time; the relay puts its wake-up into the queue
--   held   it runs, or waits for a lane, a line or its host; whatever ends that wakes it
--   ended  one index for each final state
-- `place_in` and `count_move` note changes; `write_changes` writes them. A timer's last `place_in` counts.
local places, counts = {}, {}

local function place_in(index, member, score)
  local application = application_of(member)
  local ids = places[application]
  if not ids then
    ids = {}
    places[application] = ids
  end
  ids[id_of(member)] = {index, score}
end

local function count_change(member, what, change)
  local application = application_of(member)
  local changes = counts[application]
  if not changes then
    changes = {}
    counts[application] = changes
  end
  changes[what] = (changes[what] or 0) + change
end

local function count_move(member, from, to)
  if from then
    count_change(member, from, -1)
  end
  if to then
    count_change(member, to, 1)
  end
end

-- Write a packed record in the place of one of `size` bytes (nil: of none).
local function write_packed(member, record, size)
  count_change(member, BYTES, #record - (size or 0))
  redis.call('SET', keys.records .. member, record)
end

local function write_record(member, head, rest)
  write_packed(member, pack_record(head, rest), head.size)
end

local function write_next(application)
  local first = redis.call('ZRANGE', keys.due .. application, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', keys.next, first[2], application)
  else
    redis.call('ZREM', keys.next, application)
  end
end

local function write_places(application, ids)
  local added, removed = {due = {}, held = {}}, {due = {}, held = {}}
  for id, place in pairs(ids) do
    for index, list in pairs(removed) do
      if place[1] == index then
        local entries = added[index]
        entries[#entries + 1] = place[2]
        entries[#entries + 1] = id
      else
        list[#list + 1] = id
      end
    end
  end
  for _, index in ipairs({'due', 'held'}) do
    call_for_all('ZADD', keys[index] .. application, added[index])
    call_for_all('ZREM', keys[index] .. application, removed[index])
  end
  write_next(application)
end

local function write_count(field, change)
  if change ~= 0 and redis.call('HINCRBY', keys.counts, field, change) <= 0 then
    redis.call('HDEL', keys.counts, field)
  end
end

local function write_counts()
  local pending = 0
  for application, changes in pairs(counts) do
    pending = pending + (changes[SCHEDULED] or 0) + (changes[RUNNING] or 0)
    for what, change in pairs(changes) do
      write_count(application .. ':' .. what, change)
    end
  end
  write_count(PENDING, pending)
end

-- Write an outbox entry: the relay puts the timer's wake-up into the queue. An empty outbox may have relays
-- that sleep: `write_changes` wakes them.
local must_ring = false

local function tell_relay(member, head)
  must_ring = must_ring or redis.call('XLEN', keys.outbox) == 0
  redis.call('XADD', keys.outbox, '*', 'timer', member, 'generation', head.generation, 'due', head.due)
end

local function write_changes()
  for application, ids in pairs(places) do
    write_places(application, ids)
  end
  write_counts()
  if must_ring then
    redis.call('PUBLISH', OUTBOX_CHANNEL, string.match(keys.outbox, '{(%d+)}'))
  end
end

local function ended_index(member, state)
  return keys.ended .. state .. ':' .. application_of(member)
end

-- A timer has ended: it stays in an ended index until its retention is over and `forget` drops it.
local function file_ended(member, head, now, retention_ms)
  place_in(nil, member)
  redis.call('ZADD', ended_index(member, head.state), head.due, id_of(member))
  redis.call('ZADD', keys.retention, now + retention_ms, member)
end

local function leave_ended(member, head)
  redis.call('ZREM', ended_index(member, head.state), id_of(member))
  redis.call('ZREM', keys.retention, member)
end

-- Whether a finished timer's retention is over. If so, clients no longer see it, but its record still exists.
local function is_over(member, head, now)
  return is_finished(head) and tonumber(redis.call('ZSCORE', keys.retention, member) or math.huge) <= now
end

-- {member, generation, ...} that `finish` returns for its worker to start; nil: tell the relay instead.
-- finish.lua sets it.
local unblocked

-- Move a scheduled timer from `held` to `due`, and see to its wake-up. A running timer stays in `held`.
local function wake(member, now)
  local head = head_of(member)
  if not head or head.state ~= SCHEDULED then
    return
  end
  place_in('due', member, head.due)
  if unblocked and head.due <= now then
    unblocked[#unblocked + 1] = member
    unblocked[#unblocked + 1] = head.generation
  else
    tell_relay(member, head)
  end
end

-- Note that a lane or line has waiting timers, of which the first is due at `due`: heal wakes it if nobody
-- serves the lane or line for PROBE_MS.
local function probe_later(name, due, now)
  redis.call('ZADD', keys.probes, 'LT', math.max(due, now) + PROBE_MS, name)
end

local function lane_name(member, lane)
  return application_of(member) .. ':' .. lane
end

-- Put a timer into its lane and into an index: `held` when another timer of the lane comes first, else `due`.
local function take_place(member, head, now)
  if head.lane == '' then
    place_in('due', member, head.due)
    return
  end
  local key = keys.lanes .. lane_name(member, head.lane)
  redis.call('ZADD', key, head.due, member)
  local is_first = redis.call('ZRANGE', key, 0, 0)[1] == member
  place_in(is_first and 'due' or 'held', member, head.due)
  if not is_first then
    probe_later('lane:' .. lane_name(member, head.lane), head.due, now)
  end
end

-- Take a timer out of its lane, and wake the timer that is now the first. In a lane with one timer nobody waits:
-- its probe could be due in years.
local function leave_lane(member, lane, now)
  if lane == '' then
    return
  end
  local key = keys.lanes .. lane_name(member, lane)
  redis.call('ZREM', key, member)
  local first, second = unpack(redis.call('ZRANGE', key, 0, 1))
  if first then
    wake(first, now)
  end
  if not second then
    redis.call('ZREM', keys.probes, 'lane:' .. lane_name(member, lane))
  end
end

-- Whether another timer of the lane comes before this one.
local function is_blocked(member, lane)
  if lane == '' then
    return false
  end
  local key = keys.lanes .. lane_name(member, lane)
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  while first and first ~= member and not short_head_of(first) do
    redis.call('ZREM', key, first) -- without a readable record, nothing else would take it out
    first = redis.call('ZRANGE', key, 0, 0)[1]
  end
  return first and first ~= member
end

-- Put a due timer of a paused application into its line. No attempt is counted.
local function join_line(member, head, now)
  local application = application_of(member)
  redis.call('ZADD', keys.lines .. application, head.due, member)
  probe_later('application:' .. application, head.due, now)
  place_in('held', member, head.due)
end

-- A timer no longer waits for its application or host.
local function leave_lines(member)
  redis.call('ZREM', keys.lines .. application_of(member), member)
  redis.call('ZREM', keys.waiting, member)
end

-- Take an unfinished timer out of its lane and lines, or a finished one out of its ended index.
local function leave_place(member, head, now)
  if is_finished(head) then
    leave_ended(member, head)
  else
    leave_lane(member, head.lane, now)
    leave_lines(member)
  end
end

-- Take a timer whose record or spec is unreadable out of the indices, or it would be tried for ever. The
-- record stays.
local function set_aside(member, head, now)
  place_in(nil, member)
  redis.call('ZREM', keys.running, member)
  redis.call('ZREM', keys.ending, member)
  local is_new = redis.call('ZADD', keys.set_aside, now, member) == 1
  if head then
    leave_lane(member, head.lane, now)
    if is_new then
      count_move(member, head.state, nil)
    end
  end
end

-- A client has ended a recurring timer while it ran: now that the attempt is over, nothing comes after it.
-- `rest`: of its record. Returns false when nobody has. The holder stays: a repeated `finish` is recognized by it.
local may_end -- usually false: no timer ends so

local function end_after_run(member, head, rest, now)
  if may_end == nil then
    may_end = redis.call('EXISTS', keys.ending) == 1
  end
  local retention = may_end and redis.call('ZSCORE', keys.ending, member)
  if not retention then
    return false
  end
  redis.call('ZREM', keys.ending, member)
  redis.call('ZREM', keys.running, member)
  head.state, head.lost = CANCELLED, 0
  leave_lane(member, head.lane, now)
  write_record(member, head, rest)
  file_ended(member, head, now, tonumber(retention))
  count_move(member, RUNNING, CANCELLED)
  return true
end

-- Whether an attempt still belongs to its worker.
local function is_held_by(head, nonce, holder)
  return head and head.state == RUNNING and head.nonce == nonce and head.holder == holder
end

-- Since when (ms) the store has been up without a break. The first call after a silence sets it to now. For
-- UP_GRACE_MS after that, workers keep attempts whose leases ended during the outage.
local function up_since(now)
  local up = redis.call('HMGET', keys.up, 'seen', 'since')
  local seen, since = tonumber(up[1] or 0), tonumber(up[2] or 0)
  if seen + SILENCE_MS < now then
    since = now
    redis.call('HSET', keys.up, 'seen', now, 'since', since)
  elseif seen + 1000 < now then
    redis.call('HSET', keys.up, 'seen', now)
  end
  return since
end

-- Whether a running timer has lost its worker.
local function is_lost(member, now, since)
  local lease_end = tonumber(redis.call('ZSCORE', keys.running, member) or 0)
  return now > math.max(lease_end, since + UP_GRACE_MS)
end

-- Compare strings byte by byte, as Redis orders members of the same score. Lua's < depends on the locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

-- How many entries of an index are at (score, id) or before it. With id '': how many have a lower score.
local function count_until(index, score, id)
  local text = string.format('%.0f', score)
  local low = redis.call('ZCOUNT', index, '-inf', '(' .. text)
  if id == '' then
    return low
  end
  local high = low + redis.call('ZCOUNT', index, text, text)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_before(id, redis.call('ZRANGE', index, middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

-- How far an application's due index is in the queue: all entries up to (due ms, id). nil: nothing is yet.
local function filled_until(application)
  local text = redis.call('HGET', keys.filled, application)
  if not text then
    return nil
  end
  local due, id = string.match(text, '^(%d+):(.*)$')
  return tonumber(due), id
end

local function write_filled(application, due, id)
  redis.call('HSET', keys.filled, application, string.format('%.0f:%s', due, id))
end

-- For entries {id, due ms, ...} of a due index, add member, generation, due ms to `found`. An entry without a
-- record is taken out of the index; otherwise it would be handed out for ever.
local function add_wake_ups(found, application, entries)
  local dead = {}
  for i = 1, #entries, 2 do
    local id, due = entries[i], tonumber(entries[i + 1])
    local member = application .. ':' .. id
    local head, is_there = short_head_of(member)
    if is_there then
      local n = #found
      found[n + 1], found[n + 2], found[n + 3] = member, head and head.generation or 0, due
    else
      dead[#dead + 1] = id
    end
  end
  if #dead > 0 then
    call_for_all('ZREM', keys.due .. application, dead)
    write_next(application)
  end
end

-- A policy's JSON -> its values; {} when nobody can read it: then it is the default policy, as in Python.
local function read_policy(text)
  local ok, values = pcall(cjson.decode, text)
  return ok and type(values) == 'table' and values or {}
end

local function is_paused(application)
  local text = redis.call('HGET', keys.applications, application)
  return text and read_policy(text).paused
end

-- How many ms too early a timer of an application is posted that may post `rate` a second (at most those of one
-- second at once); 0: it is in time, and is counted.
local function take_rate(application, rate, now)
  local gap = 1000 / rate
  local used = math.max(tonumber(redis.call('HGET', keys.rates, application) or 0), now) + gap
  local wait = math.ceil(used - now - math.max(1000, gap))
  if wait > 0 then
    return wait
  end
  redis.call('HSET', keys.rates, application, string.format('%.3f', used))
  return 0
end

-- An application's policy; empty when none is stored.
local function policy_of(application)
  local text = redis.call('HGET', keys.applications, application)
  local ok, policy = pcall(cjson.decode, text or '{}')
  return ok and type(policy) == 'table' and policy or {}
end

-- Set bits of an archive layer: at most 64 positions. Returns 1 when one of them was not set before, else 0.
local bit_operations

local function set_bits(layer, positions)
  if #positions == 0 then
    return 0
  end
  if not bit_operations then
    bit_operations = {}
    for i = 1, 4 * 64, 4 do
      bit_operations[i], bit_operations[i + 1], bit_operations[i + 3] = 'SET', 'u1', '1'
    end
  end
  for i = 1, #positions do
    bit_operations[4 * i - 1] = positions[i]
  end
  for _, bit in ipairs(redis.call('BITFIELD', layer, unpack(bit_operations, 1, 4 * #positions))) do
    if bit == 0 then
      return 1
    end
  end
  return 0
end

-- A host's own slot (keys.HostKeys). A member there is a wake-up's text. Only the scripts host_* use these.
local CATCH_UP_MS = 1000 -- workers that are late by no more than this catch up with the host's rate
local ROUNDING_MS = 0.001
local FORGET_HOST_MS = 7 * 24 * 3600000

-- The host's rules: {paused, rate, concurrency}; what is nil is not limited.
local function read_rules()
  local ok, rules = pcall(cjson.decode, redis.call('GET', keys.rules) or '{}')
  return ok and type(rules) == 'table' and rules or {}
end

-- When the rate lets the next call start (ms, with a fraction), but not before `earliest`.
local function next_start(rules, now, earliest)
  if not rules.rate then
    return earliest
  end
  local pace = redis.call('HMGET', keys.pace, 'last', 'since')
  local last, since = math.min(tonumber(pace[1] or 0), now), math.min(tonumber(pace[2] or 0), now)
  return math.max(last + 1000 / rules.rate, since, earliest)
end

-- Note a time in `pace`: `last` start, or `since` when the rules hold.
local function note_pace(field, ms)
  redis.call('HSET', keys.pace, field, string.format('%.3f', ms))
  redis.call('PEXPIRE', keys.pace, FORGET_HOST_MS)
end

-- How many more permits there are; less than 0 after the limit was lowered.
local function free_permits(rules)
  return (rules.concurrency or math.huge) - redis.call('ZCARD', keys.permits)
end

-- Put wake-ups whose permits have expired back into the line, before all others: their worker is lost.
local function return_expired(now)
  local expired = redis.call('ZRANGEBYSCORE', keys.permits, '-inf', now)
  local entries = {}
  for _, member in ipairs(expired) do
    entries[#entries + 1] = 0
    entries[#entries + 1] = member
  end
  call_for_all('ZADD', keys.line, entries)
  call_for_all('ZREM', keys.permits, expired)
end

-- When the wake-up of this rank in the line (0: the first) may start, if the next start is at `start`.
local function start_of_rank(rules, start, rank)
  return math.ceil(start + rank * 1000 / rules.rate - ROUNDING_MS)
end
