-- create: store timers, each with its place in the due index and its outbox entry.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now   2 msgpack [[member, spec, ms, ms counts from now?, timeout ms, ordering key, if exists], ...]
-- RETURNS a timer {'created' | 'exists' | 'kept' | 'replaced' | 'conflict' | 'running', due ms of who has the id}
-- An id that is taken: 'exists' when the specs are the same, otherwise what `if exists` says; a running timer and
-- an unreadable record are never replaced.

local keys = store_keys()
local now = now_ms(ARGV[1])
local counts = counter(keys.counts)
local due_index = {}

local function store(member, generation, spec, due, timeout, lane, from_state)
  local head = {state = SCHEDULED, generation = generation, attempts = 0, due = due, timeout = timeout, lane = lane}
  redis.call('SET', keys.records .. member, write_record(head, cmsgpack.pack(spec)))
  due_index[#due_index + 1] = due
  due_index[#due_index + 1] = member
  join_lane(keys, member, head)
  tell_relay(keys.outbox, member, head)
  counts.move(member, from_state, SCHEDULED)
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
  local member, spec, ms, from_now, timeout, lane, if_exists = unpack(timer)
  local due = from_now and now + ms or ms
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local is_gone = head and is_over(keys, member, head, now)
  if is_gone then
    leave_place(keys, member, head, nil)
  end
  if is_gone or not record then
    store(member, 0, spec, due, timeout, lane, is_gone and head.state or nil)
    answers[i] = {'created', due}
  else
    local known = head and read_spec(head)
    if known == spec and if_exists == 'conflict' then
      answers[i] = {'exists', head.due}
    elseif not known or if_exists == 'conflict' then
      answers[i] = {'conflict', head and head.due or 0}
    elseif if_exists == 'keep' then
      answers[i] = {'kept', head.due}
    elseif head.state == RUNNING then
      answers[i] = {'running', head.due}
    elseif is_wanted(if_exists, head, due) then
      leave_place(keys, member, head, known)
      store(member, head.generation + 1, spec, due, timeout, lane, head.state)
      answers[i] = {'replaced', due}
    else
      answers[i] = {'kept', head.due}
    end
  end
end
call_for_all('ZADD', keys.due, due_index)
counts.write()
return answers
