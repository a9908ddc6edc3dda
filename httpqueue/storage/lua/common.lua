-- Shared by every script, which is appended to this file.
--
-- A record is a sequence of MessagePack values, so that its head can be changed without touching the rest:
--   state letter, generation, attempts, due ms, timeout ms (0: the worker's), ordering key ('': none)
--   | spec (JSON) | attempts (JSON each), the oldest first
-- Old-style MessagePack strings throughout: cmsgpack knows no bin type.

local SCHEDULED, RUNNING, DONE, FAILED, CANCELLED = 's', 'r', 'd', 'f', 'c'
local STATES = {[SCHEDULED] = true, [RUNNING] = true, [DONE] = true, [FAILED] = true, [CANCELLED] = true}
local HEAD_BYTES = 200 -- no head is longer
local AT_LAST = 2 ^ 53 -- when a timer in a line is tried again: nobody knows
local TURN = '-inf' -- the score in its lane of the timer whose turn it is, whatever its due time

-- KEYS of every script of the store, as store/timers.py hands them over.
local function store_keys()
  return {
    records = KEYS[1], due = KEYS[2], running = KEYS[3], finished = KEYS[4], retention = KEYS[5], outbox = KEYS[6],
    counts = KEYS[7], applications = KEYS[8], destinations = KEYS[9], lanes = KEYS[10], lines = KEYS[11],
    calls = KEYS[12], rates = KEYS[13], slots = KEYS[14], health = KEYS[15], set_aside = KEYS[16],
    waiting = KEYS[17]
  }
end

-- `given` is ms since the epoch, or '' for this server's TIME.
local function now_ms(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- -> {state, generation, attempts, due, timeout, lane, rest}; nil when the record cannot be read.
-- `rest` is spec and attempts.
local function read_head(record)
  local ok, next, state, generation, attempts, due, timeout, lane = pcall(cmsgpack.unpack_limit, record, 6)
  -- any bytes are MessagePack of something: what they say must make sense, too
  if not ok or not STATES[state] or type(generation) ~= 'number' or type(attempts) ~= 'number'
    or type(due) ~= 'number' or type(timeout) ~= 'number' or type(lane) ~= 'string' or next < 0 then
    return nil
  end
  return {
    state = state, generation = generation, attempts = attempts, due = due, timeout = timeout, lane = lane,
    rest = string.sub(record, next + 1)
  }
end

-- -> the spec; nil when it cannot be read.
local function read_spec(head)
  local ok, _, spec = pcall(cmsgpack.unpack_limit, head.rest, 1)
  return ok and type(spec) == 'string' and spec or nil
end

local MAX_ARGUMENTS = 4000 -- even, and below what Lua can unpack

-- One command for many, in as few calls as Lua can make: command, key unless it has none of its own, arguments.
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

local function write_record(head, rest)
  return cmsgpack.pack(head.state, head.generation, head.attempts, head.due, head.timeout, head.lane) .. rest
end

local function application_of(member)
  return string.sub(member, 1, string.find(member, ':', 1, true) - 1)
end

-- As it is in the spec's URL, which comes first in the JSON.
local function authority_of(spec)
  return string.match(spec, '^{"url":"%a+://([^/?#"]*)') or ''
end

-- The host as it is in the spec's URL, in small letters, without the port; [] around an IPv6 address.
local function host_of(spec)
  local authority = authority_of(spec)
  local port = string.find(authority, ':%d*$')
  return string.lower(port and string.sub(authority, 1, port - 1) or authority)
end

-- Changes of COUNTS, gathered for one write.
local function counter(key)
  local applications = {}
  return {
    move = function(member, from, to)
      local application = application_of(member)
      local changes = applications[application]
      if not changes then
        changes = {}
        applications[application] = changes
      end
      if from then
        changes[from] = (changes[from] or 0) - 1
      end
      if to then
        changes[to] = (changes[to] or 0) + 1
      end
    end,
    write = function()
      for application, changes in pairs(applications) do
        for state, change in pairs(changes) do
          local field = application .. ':' .. state
          if change ~= 0 and redis.call('HINCRBY', key, field, change) <= 0 then
            redis.call('HDEL', key, field)
          end
        end
      end
    end
  }
end

-- Tell the relay that a timer's wake-up is to be put.
local function tell_relay(outbox, member, head)
  redis.call('XADD', outbox, '*', 'timer', member, 'generation', head.generation, 'due', head.due)
end

local function is_finished(head)
  return head.state ~= SCHEDULED and head.state ~= RUNNING
end

-- Whether a finished timer's retention is over: then it is gone, though `forget` has still to drop its record.
local function is_over(keys, member, head, now)
  return is_finished(head) and tonumber(redis.call('ZSCORE', keys.retention, member) or math.huge) <= now
end

-- Have a timer tried again that waited for something: by the worker that calls `finish`, which collects those that
-- are due in keys.woken, or by the relay. One that runs lost its worker, or the wake-up does no harm.
local function wake(keys, member)
  redis.call('ZREM', keys.waiting, member)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  if not head or is_finished(head) then
    return
  end
  if keys.woken and head.due <= keys.now then
    keys.woken[#keys.woken + 1] = member
    keys.woken[#keys.woken + 1] = head.generation
  else
    tell_relay(keys.outbox, member, head)
  end
end

local function lane_key(prefix, member, lane)
  return prefix .. application_of(member) .. ':' .. lane
end

-- A timer leaves its lane: whose turn it is now is tried.
local function leave_lane(keys, member, lane)
  if lane == '' then
    return
  end
  local key = lane_key(keys.lanes, member, lane)
  redis.call('ZREM', key, member)
  local next = redis.call('ZRANGE', key, 0, 0)[1]
  if next then
    wake(keys, next)
  end
end

local function join_lane(keys, member, head)
  if head.lane ~= '' then
    redis.call('ZADD', lane_key(keys.lanes, member, head.lane), head.due, member)
  end
end

-- Whether another timer of the lane is first.
local function is_blocked(keys, member, lane)
  if lane == '' then
    return false
  end
  local key = lane_key(keys.lanes, member, lane)
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  while first and first ~= member and not redis.call('ZSCORE', keys.due, first) do
    redis.call('ZREM', key, first) -- its record was set aside: nobody else would take it out
    first = redis.call('ZRANGE', key, 0, 0)[1]
  end
  return first and first ~= member
end

-- A timer no longer waits for its host or application.
local function leave_lines(keys, member, spec)
  local host = host_of(spec)
  redis.call('ZREM', keys.lines .. 'host:' .. host, member)
  redis.call('ZREM', keys.slots .. host, member)
  redis.call('ZREM', keys.lines .. 'application:' .. application_of(member), member)
  redis.call('ZREM', keys.waiting, member)
end

-- A timer gives up the place that it has: in its lane and lines, or among the finished.
local function leave_place(keys, member, head, spec)
  if head.state == SCHEDULED then
    leave_lane(keys, member, head.lane)
    leave_lines(keys, member, spec)
  else
    redis.call('ZREM', keys.finished, member)
    redis.call('ZREM', keys.retention, member)
  end
end

-- A timer begins a life of its own under a new generation: record, due index, lane, outbox.
local function schedule(keys, counts, member, head, rest, from_state)
  redis.call('SET', keys.records .. member, write_record(head, rest))
  redis.call('ZADD', keys.due, head.due, member)
  join_lane(keys, member, head)
  tell_relay(keys.outbox, member, head)
  counts.move(member, from_state, SCHEDULED)
end
