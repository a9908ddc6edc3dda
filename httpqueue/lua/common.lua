-- Shared by every script, which is appended to this file.
--
-- A record is a sequence of MessagePack values, so that its head can be changed without touching the rest:
--   state letter, generation, attempts, due ms | spec (JSON) | last attempt (JSON, '' before the first)
-- Old-style MessagePack strings throughout: cmsgpack knows no bin type.

local SCHEDULED, RUNNING, DONE, FAILED = 's', 'r', 'd', 'f'
local STATES = {[SCHEDULED] = true, [RUNNING] = true, [DONE] = true, [FAILED] = true}
local HEAD_BYTES = 40 -- no head is longer

-- `given` is ms since the epoch, or '' for this server's TIME.
local function now_ms(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- -> {state, generation, attempts, due, rest}; nil when the record cannot be read. `rest` is spec and last attempt.
local function read_head(record)
  local ok, next, state, generation, attempts, due = pcall(cmsgpack.unpack_limit, record, 4)
  -- any bytes are MessagePack of something: what they say must make sense, too
  if not ok or not STATES[state] or type(generation) ~= 'number' or type(attempts) ~= 'number'
    or type(due) ~= 'number' or next < 0 then
    return nil
  end
  return {state = state, generation = generation, attempts = attempts, due = due, rest = string.sub(record, next + 1)}
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
  return cmsgpack.pack(head.state, head.generation, head.attempts, head.due) .. rest
end
