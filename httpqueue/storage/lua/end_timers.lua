-- end_timers: end many timers, for a job: cancel scheduled ones, end the retention of finished ones.
-- KEYS    records, due, held, next, ended, retention, outbox, counts, lanes, lines, waiting, probes
-- ARGV    1 now   2 letters of the states that they may be in
--         3 msgpack [[member, wanted version, retention of a cancelled timer in ms], ...]
-- RETURNS {1 or 0 for each timer, host in whose line it was or '', its generation, ...}
-- 0: nothing was changed, because it is gone, or has another state or version.

go_on_when_full(keys.retention)
local now = now_ms(ARGV[1])
local states = ARGV[2]

local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local member, version, retention = unpack(item)
  local head = head_of(member)
  local changed, waits_for = 0, ''
  if head and string.find(states, head.state, 1, true) and version_of(head) == version
    and not is_over(member, head, now) then
    changed = 1
    if is_finished(head) then
      redis.call('ZADD', keys.retention, now, member)
    else
      waits_for = redis.call('ZSCORE', keys.waiting, member) and head.host or ''
      leave_place(member, head, now)
      head.state = CANCELLED
      write_record(member, head, head.rest)
      file_ended(member, head, now, retention)
      count_move(member, SCHEDULED, CANCELLED)
    end
  end
  local n = 3 * i
  answers[n - 2], answers[n - 1], answers[n] = changed, waits_for, head and head.generation or 0
end
write_changes()
return answers
