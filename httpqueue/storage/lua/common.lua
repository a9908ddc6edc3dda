-- Shared by every script: this file stands before each of them. The table `keys` holds the keys that a script
-- names in its header (see scripts.py).
--
-- A record is a sequence of MessagePack values, so that its head can be changed without touching the rest:
--   state letter, generation, attempts, due ms, timeout ms (0: the worker's), ordering key ('': none), host
--   | spec (JSON) | attempts (JSON each), the oldest first
-- Strings are MessagePack's old kind throughout: cmsgpack knows no bin type.
-- A `member` is application:id, the name of a timer.

local SCHEDULED, RUNNING, DONE, FAILED, CANCELLED = 's', 'r', 'd', 'f', 'c'
local STATES = {[SCHEDULED] = true, [RUNNING] = true, [DONE] = true, [FAILED] = true, [CANCELLED] = true}
local HEAD_VALUES = 7
local HEAD_BYTES = 512 -- no head is longer
local LATER = 2 ^ 53 -- the score in `waiting` of a timer in a line: nobody knows yet when it may start
local TURN = '-inf' -- the score in its lane of the timer whose turn it is, whatever its due time
local MAX_ARGUMENTS = 4000 -- even, and below what Lua can unpack

-- `given` is ms since the epoch, or '' for this server's TIME.
local function now_ms(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The instant, in ms, of a due time as Python sends it: ms, and whether they count from now.
local function instant_ms(ms, is_delay, now)
  return is_delay and now + ms or ms
end

-- One command with many arguments, in as few calls as Lua can make. `key` is nil for commands that take many keys.
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

-- -> {state, generation, attempts, due, timeout, lane, host, rest}; nil when the record cannot be read.
-- `rest` is spec and attempts, packed.
local function read_head(record)
  local ok, next, state, generation, attempts, due, timeout, lane, host =
    pcall(cmsgpack.unpack_limit, record, HEAD_VALUES)
  -- Any bytes are MessagePack of something, so the values must make sense, too.
  if not ok or not STATES[state] or type(generation) ~= 'number' or type(attempts) ~= 'number'
    or type(due) ~= 'number' or type(timeout) ~= 'number' or type(lane) ~= 'string' or type(host) ~= 'string'
    or next < 0 then
    return nil
  end
  return {
    state = state, generation = generation, attempts = attempts, due = due, timeout = timeout, lane = lane,
    host = host, rest = string.sub(record, next + 1)
  }
end

-- The head of a stored timer; nil when there is no record, or none that can be read.
local function head_of(member)
  local record = redis.call('GET', keys.records .. member)
  return record and read_head(record)
end

-- The same without reading a long spec and log: the head has no `rest`.
local function short_head_of(member)
  local record = redis.call('GETRANGE', keys.records .. member, 0, HEAD_BYTES)
  return record ~= '' and read_head(record), record ~= ''
end

-- -> the spec; nil when it cannot be read.
local function read_spec(head)
  local ok, _, spec = pcall(cmsgpack.unpack_limit, head.rest, 1)
  return ok and type(spec) == 'string' and spec or nil
end

local function write_record(member, head, rest)
  redis.call('SET', keys.records .. member, cmsgpack.pack(
    head.state, head.generation, head.attempts, head.due, head.timeout, head.lane, head.host) .. rest)
end

-- What clients see of a timer's version: an ETag without its quotes.
local function version_of(head)
  return string.format('%.0f.%.0f.%s', head.generation, head.attempts, head.state)
end

local function application_of(member)
  return string.sub(member, 1, string.find(member, ':', 1, true) - 1)
end

-- Counts of timers by application and state: changes are gathered, then written once.
local count_changes = {}

local function count_move(member, from, to)
  local application = application_of(member)
  local changes = count_changes[application]
  if not changes then
    changes = {}
    count_changes[application] = changes
  end
  if from then
    changes[from] = (changes[from] or 0) - 1
  end
  if to then
    changes[to] = (changes[to] or 0) + 1
  end
end

local function write_counts()
  for application, changes in pairs(count_changes) do
    for state, change in pairs(changes) do
      local field = application .. ':' .. state
      if change ~= 0 and redis.call('HINCRBY', keys.counts, field, change) <= 0 then
        redis.call('HDEL', keys.counts, field)
      end
    end
  end
end

-- Ask the relay to put a timer's wake-up into the queue.
local function tell_relay(member, head)
  redis.call('XADD', keys.outbox, '*', 'timer', member, 'generation', head.generation, 'due', head.due)
end

local function is_finished(head)
  return head.state ~= SCHEDULED and head.state ~= RUNNING
end

-- Whether a finished timer's retention is over: then it is gone, though `forget` has still to drop its record.
local function is_over(member, head, now)
  return is_finished(head) and tonumber(redis.call('ZSCORE', keys.retention, member) or math.huge) <= now
end

-- Timers that `finish` hands to the worker that called it, instead of asking the relay: set by finish.lua.
local unblocked

-- Wake a timer that was waiting in a lane or a line. To wake one that is running does no harm.
local function wake(member, now)
  redis.call('ZREM', keys.waiting, member)
  local head = head_of(member)
  if not head or is_finished(head) then
    return
  end
  if unblocked and head.due <= now then
    unblocked[#unblocked + 1] = member
    unblocked[#unblocked + 1] = head.generation
  else
    tell_relay(member, head)
  end
end

local function lane_key(member, lane)
  return keys.lanes .. application_of(member) .. ':' .. lane
end

local function join_lane(member, head)
  if head.lane ~= '' then
    redis.call('ZADD', lane_key(member, head.lane), head.due, member)
  end
end

-- A timer leaves its lane, and the one that is first now is woken.
local function leave_lane(member, lane, now)
  if lane == '' then
    return
  end
  local key = lane_key(member, lane)
  redis.call('ZREM', key, member)
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  if first then
    wake(first, now)
  end
end

-- Whether another timer of the lane comes first.
local function is_blocked(member, lane)
  if lane == '' then
    return false
  end
  local key = lane_key(member, lane)
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  while first and first ~= member and not redis.call('ZSCORE', keys.due, first) do
    redis.call('ZREM', key, first) -- its record was set aside: nobody else would take it out
    first = redis.call('ZRANGE', key, 0, 0)[1]
  end
  return first and first ~= member
end

local function host_line(host)
  return keys.lines .. 'host:' .. host
end

local function application_line(application)
  return keys.lines .. 'application:' .. application
end

-- A timer no longer waits for its host or application.
local function leave_lines(member, host)
  redis.call('ZREM', host_line(host), member)
  redis.call('ZREM', keys.starts .. host, member)
  redis.call('ZREM', application_line(application_of(member)), member)
  redis.call('ZREM', keys.waiting, member)
end

-- A timer gives up the place that it has: in its lane and lines, or among the finished.
local function leave_place(member, head, now)
  if head.state == SCHEDULED then
    leave_lane(member, head.lane, now)
    leave_lines(member, head.host)
  else
    redis.call('ZREM', keys.finished, member)
    redis.call('ZREM', keys.retention, member)
  end
end

-- A record nobody can read leaves the indices, or it would come back for ever; it stays for inspection.
local function set_aside(member, now)
  redis.call('ZREM', keys.due, member)
  redis.call('ZREM', keys.running, member)
  redis.call('ZADD', keys.set_aside, now, member)
end
