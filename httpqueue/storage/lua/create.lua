-- create: store timers, each with its place in an index and lane, and its outbox entry.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting, probes, requests
-- ARGV    1 now
--         2 msgpack [[member, spec, due ms, due counts from now?, timeout ms, ordering key, host, nonce,
--           if exists], ...]
--         3 msgpack [[application:hash of its Idempotency-Key or '', fingerprint of the request], ...]
--         4 how long the answer to a request with an Idempotency-Key is remembered, ms
-- RETURNS for each timer one of
--         {'replaced', due ms, host in whose line the one before was or '', its generation}
--         {'exists' | 'kept', due ms, state letter}
--         {'created' | 'conflict' | 'running' | 'lane', due ms}
--           due ms: of the timer that now has the id; 0 for an unreadable record
--           lane: it would be replaced, but it has another ordering key
--         {'moved', partition}        the id's timer has an ordering key and is there
--         {'repeated', due ms, state letter, result}   what was answered to the same request before
--         {'reused', 0}               the Idempotency-Key is that of another request
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

local function create(timer)
  local member, spec, ms, is_delay, timeout, lane, host, nonce, if_exists = unpack(timer)
  local due = instant_ms(ms, is_delay, now)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local moved_to = record and not head and read_pointer(record)
  local is_gone = head and is_over(member, head, now)
  if is_gone then
    leave_place(member, head, now)
  end
  if moved_to then
    return {'moved', moved_to}
  elseif is_gone or not record then
    store(member, new_head(0, due, timeout, lane, host, nonce), spec, is_gone and head.state or nil)
    return {'created', due}
  end
  local known = head and read_spec(head)
  if known == spec and if_exists == 'conflict' then
    return {'exists', head.due, head.state}
  elseif not known then
    return {'conflict', head and head.due or 0}
  elseif if_exists == 'keep' then
    return {'kept', head.due, head.state}
  elseif head.lane ~= lane then
    return {'lane', head.due}
  elseif if_exists == 'conflict' then
    return {'conflict', head.due}
  elseif head.state == RUNNING then
    return {'running', head.due}
  elseif not is_wanted(if_exists, head, due) then
    return {'kept', head.due, head.state}
  end
  local waits_for = redis.call('ZSCORE', keys.waiting, member) and head.host or ''
  leave_place(member, head, now)
  store(member, new_head(head.generation + 1, due, timeout, lane, host, nonce), spec, head.state)
  return {'replaced', due, waits_for, head.generation}
end

-- The answer to an earlier request with this Idempotency-Key; nil when there was none.
local function repeated(key, fingerprint)
  local known = key ~= '' and redis.call('GET', keys.requests .. key)
  if not known then
    return nil
  end
  local ok, fingerprint_before, result, due, state = pcall(cmsgpack.unpack, known)
  if ok and fingerprint_before == fingerprint and result then
    return {'repeated', due, state, result}
  end
  return {'reused', 0}
end

-- Remember the answer to a request with an Idempotency-Key, if it stored or found a timer.
local function remember(key, fingerprint, answer)
  local result, due, state = unpack(answer)
  if key ~= '' and (result == 'created' or result == 'replaced' or result == 'exists' or result == 'kept') then
    local known = cmsgpack.pack(fingerprint, result, due, STATES[state] and state or SCHEDULED)
    redis.call('SET', keys.requests .. key, known, 'PX', ARGV[4])
  end
  return answer
end

local answers, requests = {}, cmsgpack.unpack(ARGV[3])
for i, timer in ipairs(cmsgpack.unpack(ARGV[2])) do
  local key, fingerprint = unpack(requests[i])
  answers[i] = repeated(key, fingerprint) or remember(key, fingerprint, create(timer))
end
write_changes()
return answers
