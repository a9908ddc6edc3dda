-- mend: put timers where their records say, and take out of the indices what has no record.
-- KEYS    records, due, held, next, running, ended, retention, outbox, counts, lanes, lines, waiting, probes, set_aside,
--         ending
-- ARGV    1 now   2 and 3 retention of a done or cancelled and of a failed timer whose own one is lost, ms
--         4 msgpack [member, ...]
-- A record that nobody can read is set aside. One of the next format is left alone.

go_on_when_full(keys.running)
local now, retention, retention_failed = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function leave_ended_but(member, kept)
  for _, state in ipairs({DONE, FAILED, CANCELLED}) do
    if state ~= kept then
      redis.call('ZREM', ended_index(member, state), id_of(member))
    end
  end
end

local function leave_all(member)
  place_in(nil, member)
  leave_ended_but(member)
  leave_lines(member)
  redis.call('ZREM', keys.running, member)
  redis.call('ZREM', keys.retention, member)
end

local function mend_scheduled(member, head)
  leave_ended_but(member)
  redis.call('ZREM', keys.running, member)
  redis.call('ZREM', keys.retention, member)
  local lane = head.lane ~= '' and keys.lanes .. lane_name(member, head.lane)
  local waits = redis.call('ZSCORE', keys.waiting, member)
    or redis.call('ZSCORE', keys.lines .. application_of(member), member)
  if waits then
    place_in('held', member, head.due)
  elseif lane and redis.call('ZSCORE', lane, member) == TURN then
    place_in('due', member, head.due) -- a retry keeps its turn
  else
    take_place(member, head, now)
  end
  tell_relay(member, head)
end

local function mend_running(member, head)
  leave_ended_but(member)
  redis.call('ZREM', keys.retention, member)
  redis.call('ZADD', keys.running, 'NX', now, member) -- without a lease its worker is lost
  if head.lane ~= '' then
    redis.call('ZADD', keys.lanes .. lane_name(member, head.lane), TURN, member)
  end
  place_in('held', member, head.due)
end

local function mend_ended(member, head)
  leave_ended_but(member, head.state)
  leave_lane(member, head.lane, now)
  leave_lines(member)
  redis.call('ZREM', keys.running, member)
  place_in(nil, member)
  redis.call('ZADD', ended_index(member, head.state), head.due, id_of(member))
  local kept = head.state == FAILED and retention_failed or retention
  redis.call('ZADD', keys.retention, 'NX', now + kept, member)
end

for _, member in ipairs(cmsgpack.unpack(ARGV[4])) do
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  if not head or head.state ~= RUNNING then
    redis.call('ZREM', keys.ending, member)
  end
  if not record or not head and read_pointer(record) then
    leave_all(member)
    redis.call('ZREM', keys.set_aside, member)
  elseif not head or not read_spec(head) then
    if not is_newer(record) then
      set_aside(member, head, now)
    end
  else
    redis.call('ZREM', keys.set_aside, member)
    if head.state == SCHEDULED then
      mend_scheduled(member, head)
    elseif head.state == RUNNING then
      mend_running(member, head)
    else
      mend_ended(member, head)
    end
  end
end
write_changes()
