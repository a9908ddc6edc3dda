-- cancel: end a timer before it is sent, or delete one that has failed.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, starts, waiting
-- ARGV    1 now   2 member   3 version or ''   4 retention of a cancelled timer, ms
-- RETURNS {'changed', state letter before, due ms, version} | {'gone'} | {'state', its letter}
--         | {'version', its state letter}
-- A deleted timer's retention is over at once; its record goes when the archive has its id.

go_on_when_full(keys.retention)
local now = now_ms(ARGV[1])
local member, version, retention = ARGV[2], ARGV[3], tonumber(ARGV[4])

local head = head_of(member)
if not head or not read_spec(head) or is_over(member, head, now) then
  return {'gone'}
end
if head.state ~= SCHEDULED and head.state ~= FAILED then
  return {'state', head.state}
end
if version ~= '' and version ~= version_of(head) then
  return {'version', head.state}
end
local before, version_before = head.state, version_of(head)
if before == FAILED then
  redis.call('ZADD', keys.retention, now, member)
else
  leave_place(member, head, now)
  head.state = CANCELLED
  write_record(member, head, head.rest)
  file_ended(member, head, now, retention)
  count_move(member, before, CANCELLED)
end
write_changes()
return {'changed', before, head.due, version_before}
