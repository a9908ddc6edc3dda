-- finish: write down how attempts ended, and what becomes of their timers.
-- KEYS    records, due, held, next, running, ended, retention, outbox, counts, lanes, lines, waiting, probes,
--         ending
-- ARGV    1 now   2 how many attempts a record keeps
--         3 1: return the timers that are unblocked and due; 0: tell the relay of them
--         4 msgpack [[member, nonce, holder, what then, ms, log entry, callback], ...]
--           what then, ms: 'retry', delay | 'recur', next due time | 'done' or 'failed', retention
--           callback: [member, spec, timeout ms, host, nonce, until when its pointer holds (ms) or false] of the
--           timer that is the callback, or []
-- RETURNS {{0 to 4 for each attempt}, {member, generation, ...} of unblocked timers}
-- 1: written down. 4: written down, but its callback is not stored, because its id has a timer.
-- 3: nothing was changed, because the callback's pointer may be gone by now: `point` must come again.
-- 0: refused, nothing was changed. The attempt no longer belongs to its worker, or its record cannot be read
-- (the next `begin` sets it aside). 2: nothing was changed, because a call before this one has ended this attempt;
-- its answer may have been lost.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local kept_attempts, items = tonumber(ARGV[2]), cmsgpack.unpack(ARGV[4])
unblocked = ARGV[3] == '1' and {} or nil
local ended = {}

-- `rest` of a record with one more attempt; the latest `kept_attempts` attempts are kept.
local function with_attempt(rest, spec, entry)
  if #rest <= #spec + 5 then -- there are no attempts yet
    return rest .. cmsgpack.pack(entry)
  end
  local parts = {pcall(cmsgpack.unpack, rest)} -- {true, spec, attempt, ...}
  if not parts[1] then
    return cmsgpack.pack(spec, entry)
  end
  local last = #parts
  return cmsgpack.pack(spec, unpack(parts, math.max(3, last - kept_attempts + 2), last)) .. cmsgpack.pack(entry)
end

local function retry(member, head, rest, delay)
  head.state, head.due = SCHEDULED, now + delay
  write_record(member, head, rest)
  place_in('due', member, head.due) -- it keeps the turn in its lane
  count_move(member, RUNNING, SCHEDULED)
  tell_relay(member, head)
end

local function recur(member, head, rest, next_due)
  head.state, head.generation, head.attempts, head.due = SCHEDULED, head.generation + 1, 0, next_due
  leave_lane(member, head.lane, now)
  write_record(member, head, rest)
  take_place(member, head, now)
  count_move(member, RUNNING, SCHEDULED)
  tell_relay(member, head)
end

local function end_timer(member, head, rest, state, retention)
  head.state = state
  leave_lane(member, head.lane, now)
  write_record(member, head, rest)
  file_ended(member, head, now, retention)
  count_move(member, RUNNING, state)
end

local function store_callback(callback)
  local member, spec, timeout, host, nonce = unpack(callback)
  if not member then
    return true
  end
  if redis.call('EXISTS', keys.records .. member) == 1 then
    return false
  end
  local head = new_head(0, now, timeout, '', host, nonce)
  write_record(member, head, cmsgpack.pack(spec))
  place_in('due', member, head.due)
  tell_relay(member, head)
  count_move(member, nil, SCHEDULED)
  return true
end

-- Returns false when the callback is not stored, because its id has a timer.
local function settle(member, head, rest, what, ms, callback)
  if end_after_run(member, head, rest, now) then
    return store_callback(callback)
  end
  head.lost = 0 -- the holder stays: a repeated call is recognized by it
  if what == 'retry' then
    retry(member, head, rest, ms)
    return true
  end
  local is_stored = store_callback(callback)
  if what == 'recur' then
    recur(member, head, rest, ms)
  else
    end_timer(member, head, rest, what == 'done' and DONE or FAILED, ms)
  end
  return is_stored
end

local may_wait = redis.call('EXISTS', keys.waiting, keys.probes) > 0
local answers = {}
for i, item in ipairs(items) do
  local member, nonce, holder, what, ms, entry, callback = unpack(item)
  local head = head_of(member)
  local spec = head and read_spec(head)
  answers[i] = head and head.state ~= RUNNING and head.nonce == nonce and head.holder == holder and 2 or 0
  if callback[6] and callback[6] < now then
    answers[i] = 3
  elseif spec and is_held_by(head, nonce, holder) then
    ended[#ended + 1] = member
    if may_wait then -- its lease ended, it was woken and put in a line, then its worker came back
      leave_lines(member)
    end
    local is_complete = settle(member, head, with_attempt(head.rest, spec, entry), what, ms, callback)
    answers[i] = is_complete and 1 or 4
  end
end
call_for_all('ZREM', keys.running, ended)
write_changes()
return {answers, unblocked or {}}
