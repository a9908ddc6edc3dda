-- change: give timers other content or another due time. Each gets its next generation.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting, probes
-- ARGV    1 now
--         2 msgpack [[member, letters of the states it may be in, wanted version or '' (any),
--           spec or '' (keep), timeout ms, ordering key, host, due ms or false (keep),
--           due counts from now?], ...]
-- RETURNS for each timer one of
--         {'changed', state letter before, due ms, new version, host in whose line it was or '',
--           generation before}
--         {'moved', partition}        it has an ordering key and is there
--         {'lane', state letter}      the wanted spec has another ordering key
--         {'gone'}                    there is no readable record, or its retention is over
--         {'state', its letter}       it is in another state
--         {'version', state letter}   it has another version

local now = now_ms(ARGV[1])

local function with_spec(rest, spec)
  local log = {select(3, pcall(cmsgpack.unpack, rest))}
  return cmsgpack.pack(spec, unpack(log))
end

local answers = {}
for i, wish in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, states, version, spec, timeout, lane, host, ms, is_delay = unpack(wish)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local moved_to = record and not head and read_pointer(record)
  if moved_to then
    answers[i] = {'moved', moved_to}
  elseif not head or not read_spec(head) or is_over(member, head, now) then
    answers[i] = {'gone'}
  elseif not string.find(states, head.state, 1, true) then
    answers[i] = {'state', head.state}
  elseif version ~= '' and version ~= version_of(head) then
    answers[i] = {'version', head.state}
  elseif spec ~= '' and lane ~= head.lane then
    answers[i] = {'lane', head.state}
  else
    local from_state, rest = head.state, head.rest
    local waits_for = redis.call('ZSCORE', keys.waiting, member) and head.host or ''
    leave_place(member, head, now)
    if spec ~= '' then
      rest = with_spec(rest, spec)
      head.timeout, head.host = timeout, host
    end
    if ms then
      head.due = instant_ms(ms, is_delay, now)
    end
    head.state, head.generation, head.attempts, head.lost = SCHEDULED, head.generation + 1, 0, 0
    write_record(member, head, rest)
    take_place(member, head, now)
    tell_relay(member, head)
    count_move(member, from_state, SCHEDULED)
    answers[i] = {'changed', from_state, head.due, version_of(head), waits_for, head.generation - 1}
  end
end
write_changes()
return answers
