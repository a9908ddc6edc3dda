-- cancel: end a scheduled timer, or a recurring one that runs; or delete a failed one.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting,
--         probes, applications, ending
-- ARGV    1 now   2 member   3 wanted version, or '' for any   4 retention of a timer whose spec and
--         application say nothing of it, ms
-- RETURNS {'changed', state letter before, due ms, version before, host in whose line it was or '',
--           generation}
--         {'moved', partition}        it has an ordering key and is there
--         {'gone'}                    there is no readable record, or its retention is over
--         {'state', its letter}       it is in another state
--         {'version', state letter}   it has another version
-- A recurring timer that runs ends when its attempt is over: see `end_after_run`.
-- To delete a timer is to end its retention: `forget` then puts its id into the archive and drops its record.

go_on_when_full(keys.retention)
local now = now_ms(ARGV[1])
local member, version, usual_retention = ARGV[2], ARGV[3], tonumber(ARGV[4])

-- How long a cancelled timer is kept: as a delivered one.
local function retention_of(spec)
  local of_application = policy_of(application_of(member)).retention_done_ms
  return done_ms_of(spec) or tonumber(of_application or nil) or usual_retention
end

local record = redis.call('GET', keys.records .. member)
local head = record and read_head(record)
local moved_to = record and not head and read_pointer(record)
if moved_to then
  return {'moved', moved_to}
end
local spec = head and read_spec(head)
if not spec or is_over(member, head, now) then
  return {'gone'}
end
local is_last_run = head.state == RUNNING and string.find(spec, '^{"u":".-","d":%[3,') -- its schedule is a cron
if head.state ~= SCHEDULED and head.state ~= FAILED and not is_last_run then
  return {'state', head.state}
end
if version ~= '' and version ~= version_of(head) then
  return {'version', head.state}
end
local before, version_before = head.state, version_of(head)
local waits_for = redis.call('ZSCORE', keys.waiting, member) and head.host or ''
if is_last_run then
  redis.call('ZADD', keys.ending, retention_of(spec), member)
elseif before == FAILED then
  redis.call('ZADD', keys.retention, now, member)
else
  leave_place(member, head, now)
  head.state = CANCELLED
  write_record(member, head, head.rest)
  file_ended(member, head, now, retention_of(spec))
  count_move(member, before, CANCELLED)
end
write_changes()
return {'changed', before, head.due, version_before, waits_for, head.generation}
