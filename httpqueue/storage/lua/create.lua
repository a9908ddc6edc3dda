-- create: store timers, each with its place in an index and lane, and its outbox entry.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting, probes
-- ARGV    1 now
--         2 msgpack [[member, spec, due ms, due counts from now?, timeout ms, ordering key, host, nonce,
--           if exists, until when its pointer holds (ms) or false], ...]
-- RETURNS for each timer one of
--         {'replaced', due ms, host in whose line the one before was or '', its generation}
--         {'created' | 'exists' | 'kept' | 'conflict' | 'running' | 'lane', due ms}
--           due ms: of the timer that now has the id; 0 for an unreadable record
--           lane: it would be replaced, but it has another ordering key
--         {'moved', partition}        the id's timer has an ordering key and is there
--         {'late', 0}                 its pointer may be gone by now: `point` must come again
-- `if exists` says what happens when the id is taken: 'conflict', 'keep', 'replace', 'earliest' or 'latest'.
-- The last two keep the timer with that due time, but replace a finished one. 'conflict' answers 'exists'
-- when the specs are equal. A running timer and an unreadable record are never replaced.

local now = now_ms(ARGV[1])

local function store(member, head, spec, from_state)
  write_record(member, head, cmsgpack.pack(spec))
  take_place(member, head, now)
  tell_relay(member, head)
  count_move(member, from_state, SCHEDULED)
end

local function is_wanted(if_exists, head, due)
  if if_exists == 'replace' or is_finished(head) then
    return true
  end
  if if_exists == 'earliest' then
    return due < head.due
  end
  return due > head.due
end

local answers = {}
for i, timer in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, spec, ms, is_delay, timeout, lane, host, nonce, if_exists, holds_until = unpack(timer)
  local due = instant_ms(ms, is_delay, now)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local moved_to = record and not head and read_pointer(record)
  local is_late = holds_until and holds_until < now
  local is_gone = not is_late and head and is_over(member, head, now)
  if is_gone then
    leave_place(member, head, now)
  end
  if is_late then
    answers[i] = {'late', 0}
  elseif moved_to then
    answers[i] = {'moved', moved_to}
  elseif is_gone or not record then
    store(member, new_head(0, due, timeout, lane, host, nonce), spec, is_gone and head.state or nil)
    answers[i] = {'created', due}
  else
    local known = head and read_spec(head)
    if known == spec and if_exists == 'conflict' then
      answers[i] = {'exists', head.due}
    elseif not known then
      answers[i] = {'conflict', head and head.due or 0}
    elseif if_exists == 'keep' then
      answers[i] = {'kept', head.due}
    elseif head.lane ~= lane then
      answers[i] = {'lane', head.due}
    elseif if_exists == 'conflict' then
      answers[i] = {'conflict', head.due}
    elseif head.state == RUNNING then
      answers[i] = {'running', head.due}
    elseif not is_wanted(if_exists, head, due) then
      answers[i] = {'kept', head.due}
    else
      local waits_for = redis.call('ZSCORE', keys.waiting, member) and head.host or ''
      leave_place(member, head, now)
      store(member, new_head(head.generation + 1, due, timeout, lane, host, nonce), spec, head.state)
      answers[i] = {'replaced', due, waits_for, head.generation}
    end
  end
end
write_changes()
return answers
