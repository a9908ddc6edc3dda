-- create: store timers, each with its place in an index and lane, and its outbox entry.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting, probes, applications,
--         rates, requests
-- ARGV    1 now
--         2 msgpack [[member, spec, due ms, due counts from now?, timeout ms, ordering key, host, nonce,
--           if exists, admission, until when its pointer holds (ms) or false], ...]
--         3 how many timers this partition may have that have not ended, or ''
--         4 1: there are no other partitions
--         5 msgpack [[application:hash of its Idempotency-Key or '', fingerprint of the request], ...]
--         6 how long the answer to a request with an Idempotency-Key is remembered, ms
-- RETURNS for each timer one of
--         {'replaced', due ms, host in whose line the one before was or '', its generation}
--         {'exists' | 'kept', due ms, state letter}
--         {'created' | 'conflict' | 'running' | 'lane', due ms}
--           due ms: of the timer that now has the id; 0 for an unreadable record
--           lane: it would be replaced, but it has another ordering key
--         {'moved', partition}        the id's timer has an ordering key and is there
--         {'repeated', due ms, state letter, result}   what was answered to the same request before
--         {'reused', 0}               the Idempotency-Key is that of another request
--         {'late', 0}                 its pointer may be gone by now: `point` must come again
--         {'ask', 0}                  its application has limits: `quota` says what it may store
--         {'rate', ms to wait}, {'pending', 0}, {'bytes', 0}   a limit of its application
--         {'full', 0}                 the limit of the partition
--         {'deleted', 0}              a job is deleting the application
-- `if exists` says what happens when the id is taken: 'conflict', 'keep', 'replace', 'earliest' or 'latest'.
-- The last two keep the timer with that due time, but replace a finished one. 'conflict' answers 'exists'
-- when the specs are equal. A running timer and an unreadable record are never replaced.
-- `admission`: with other partitions, what `quota` said: 'ok', or the limit ('pending', 'bytes') that keeps it
-- from being stored; '' when nobody has asked.

local now = now_ms(ARGV[1])
local most, is_alone = tonumber(ARGV[3]), ARGV[4] == '1'

-- application -> its policy, and what it and all applications had before this call
local limits = {}
local all_pending = most and tonumber(redis.call('HGET', keys.counts, PENDING) or 0)

local function limits_of(application)
  local found = limits[application]
  if not found then
    found = policy_of(application)
    if is_alone and (found.max_pending or found.max_bytes) then
      local fields = {application .. ':' .. SCHEDULED, application .. ':' .. RUNNING, application .. ':' .. BYTES}
      local before = redis.call('HMGET', keys.counts, unpack(fields))
      found.pending, found.bytes = (before[1] or 0) + (before[2] or 0), tonumber(before[3] or 0)
    end
    limits[application] = found
  end
  return found
end

-- Which limit keeps the application from storing `timers` more (1 or 0), and so many bytes; nil: none.
local function limit_met(application, admission, timers, bytes)
  local new = counts[application] or {}
  if timers > 0 and most then
    local added = 0
    for _, changes in pairs(counts) do
      added = added + (changes[SCHEDULED] or 0) + (changes[RUNNING] or 0)
    end
    if all_pending + added >= most then
      return 'full'
    end
  end
  if not is_alone then
    return (admission == 'pending' and timers > 0 or admission == 'bytes' and bytes > 0) and admission or nil
  end
  local limit = limits_of(application)
  local pending = timers > 0 and limit.max_pending and limit.pending + (new[SCHEDULED] or 0) + (new[RUNNING] or 0)
  if pending and pending + timers > limit.max_pending then
    return 'pending'
  end
  if bytes > 0 and limit.max_bytes and limit.bytes + (new[BYTES] or 0) + bytes > limit.max_bytes then
    return 'bytes'
  end
end

-- Why the timer is not even looked at, and for how many ms; nil: it is.
local function refusal(application, admission)
  local limit = limits_of(application)
  if limit.is_deleted then
    return 'deleted', 0
  end
  if not is_alone and admission == '' and (limit.max_pending or limit.max_bytes or limit.max_rate) then
    return 'ask', 0
  end
  local wait = is_alone and limit.max_rate and take_rate(application, limit.max_rate, now) or 0
  if wait > 0 then
    return 'rate', wait
  end
end

-- Store a timer, in the place of `before` if that is one. Returns the limit that forbids it; nil: it is stored.
local function store(member, head, spec, admission, before)
  local record = pack_record(head, cmsgpack.pack(spec))
  local timers, size = (not before or is_finished(before)) and 1 or 0, before and before.size or 0
  local limit = limit_met(application_of(member), admission, timers, #record - size)
  if limit then
    return limit
  end
  if before then
    leave_place(member, before, now)
  end
  write_packed(member, record, size)
  take_place(member, head, now)
  tell_relay(member, head)
  count_move(member, before and before.state, SCHEDULED)
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
  local member, spec, ms, is_delay, timeout, lane, host, nonce, if_exists, admission, holds_until = unpack(timer)
  local refused, wait = refusal(application_of(member), admission)
  if refused then
    return {refused, wait}
  end
  local due = instant_ms(ms, is_delay, now)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local moved_to = record and not head and read_pointer(record)
  if holds_until and holds_until < now then
    return {'late', 0}
  end
  if moved_to then
    return {'moved', moved_to}
  end
  if not record or head and is_over(member, head, now) then
    local limit = store(member, new_head(0, due, timeout, lane, host, nonce), spec, admission, head)
    return limit and {limit, 0} or {'created', due}
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
  local wanted = new_head(head.generation + 1, due, timeout, lane, host, nonce)
  local limit = store(member, wanted, spec, admission, head)
  return limit and {limit, 0} or {'replaced', due, waits_for, head.generation}
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
    redis.call('SET', keys.requests .. key, known, 'PX', ARGV[6])
  end
  return answer
end

local answers, requests = {}, cmsgpack.unpack(ARGV[5])
for i, timer in ipairs(cmsgpack.unpack(ARGV[2])) do
  local key, fingerprint = unpack(requests[i])
  answers[i] = repeated(key, fingerprint) or remember(key, fingerprint, create(timer))
end
write_changes()
return answers
