-- begin: start an attempt for each wake-up whose timer is due, unless something holds the timer up.
-- KEYS    records, due, held, next, running, up, counts, applications, limited, lanes, lines, set_aside, waiting, probes,
--         outbox, ended, retention, ending
-- ARGV    1 now   2 holder: names the worker and this call; a repeated call has the same holder
--         3 timeout of timers without one, ms   4 how much longer a lease is than the timeout, ms
--         5 longest lease, ms
--         6 msgpack of the fields of Room, see timers/room.py; nil: the worker has room for all
--         7 msgpack [[member, generation, has it a permit of its host?], ...]
-- RETURNS {an answer for each wake-up, {application, its policy as JSON, ...}}. An answer is one of
--         {'begun', attempt, workers lost in it, due ms, now ms, lease ms, nonce, spec, host}
--         {'permit', host, due ms}   it needs a permit of its host: ask for one and begin again
--         {'early', ms until it is due}
--         {'paused'}    its application is paused
--         {'blocked'}   another timer of its lane comes first
--         {'later'}     the whole answer is long enough: ask again
--         {'gone'}      there is no record
--         {'stale'}     the timer has another generation
--         {'newer'}     its record is of the next format: a newer httpqueue will begin it
--         {'finished' | 'running' | 'unreadable'}
-- A running timer whose lease has ended has lost its worker: the same attempt begins again.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local holder, usual_timeout, margin, longest_lease, room, wake_ups =
  ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), cmsgpack.unpack(ARGV[6]), cmsgpack.unpack(ARGV[7])
local FACTOR = 4
local applications, limited = {}, {} -- application -> {text, values}, false: no policy; host -> 1 or 0
local begun, leases, begun_lines = {}, {}, {} -- begun: set of members; begun_lines: lines they may be in
local may_wait = redis.call('EXISTS', keys.waiting, keys.probes) > 0 -- usually false: no timer waits anywhere
local has_limits = redis.call('EXISTS', keys.limited) == 1
local since = up_since(now)
local bytes = 0

local function policy_of(application)
  if applications[application] == nil then
    local text = redis.call('HGET', keys.applications, application)
    applications[application] = text and {text = text, values = read_policy(text)} or false
  end
  return applications[application]
end

local function is_limited(host)
  if has_limits and not limited[host] then
    limited[host] = redis.call('SISMEMBER', keys.limited, host)
  end
  return limited[host] == 1
end

-- Whether the worker may start a call of this application to this host: Room.take of timers/room.py.
local function take_room(application, host)
  if not room then
    return true
  end
  local total, free, host_slots, caps, few_calls, few_to_host, of_applications, by_host, hosts = unpack(room)
  local calls, few = unpack(of_applications[application] or {few_calls, few_calls})
  local cap, of_hosts = caps[host], by_host[application] or {}
  local to_host = hosts[host] or cap and 0 or few_to_host
  local of_pair = of_hosts[host] or cap and 0 or few
  local left = FACTOR * free - calls
  cap = cap or host_slots
  if to_host >= cap or of_pair * FACTOR * FACTOR * total >= (FACTOR + 1) * cap * left then
    return false
  end
  room[2], of_applications[application], hosts[host] = free - 1, {calls + 1, few}, to_host + 1
  by_host[application], of_hosts[host] = of_hosts, of_pair + 1
  return true
end

-- A timer that waits for its host gets its permit from there, in its turn, even when there is room again.
local function needs_permit(member, head)
  return is_limited(head.host) or may_wait and redis.call('ZSCORE', keys.waiting, member)
    or not take_room(application_of(member), head.host)
end

-- The answer when something holds the timer up; nil when it may start.
local function obstacle(member, head, has_permit)
  local application = policy_of(application_of(member))
  if application and application.values.paused then
    join_line(member, head, now)
    return {'paused'}
  end
  if is_blocked(member, head.lane) then
    place_in('held', member, head.due)
    probe_later('lane:' .. lane_name(member, head.lane), now, now)
    return {'blocked'}
  end
  return not has_permit and needs_permit(member, head) and {'permit', head.host, head.due}
end

local function lease_of(head)
  return math.min((head.timeout > 0 and head.timeout or usual_timeout) + margin, longest_lease)
end

local function answer_begun(member, head, spec)
  local lease = lease_of(head)
  begun[member] = true
  leases[#leases + 1] = now + lease
  leases[#leases + 1] = member
  bytes = bytes + #spec
  return {'begun', head.attempts, head.lost, head.due, now, lease, head.nonce, spec, head.host}
end

local function begin(member, head, spec)
  count_move(member, head.state, RUNNING)
  if head.state == RUNNING then
    head.lost = head.lost + 1
  else
    head.attempts = head.attempts + 1
  end
  head.state, head.holder = RUNNING, holder
  write_record(member, head, head.rest)
  place_in('held', member, head.due)
  if head.lane ~= '' then
    redis.call('ZADD', keys.lanes .. lane_name(member, head.lane), TURN, member)
  end
  if may_wait then
    begun_lines[application_of(member)] = true
  end
  return answer_begun(member, head, spec)
end

local function answer_to(member, generation, has_permit)
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  if not record or not head and read_pointer(record) then -- a later timer of the name is in another partition
    return {'gone'}
  end
  local spec = head and read_spec(head)
  if not spec then
    if is_newer(record) then
      return {'newer'}
    end
    set_aside(member, head, now)
    return {'unreadable'}
  end
  if head.generation ~= generation then
    return {'stale'}
  end
  if head.state == RUNNING then
    if head.holder == holder and not begun[member] then
      return answer_begun(member, head, spec) -- a repeated call, whose first answer was lost
    end
    if begun[member] or not is_lost(member, now, since) then
      return {'running'}
    end
    head.holder = '' -- nobody, if it ends now
    if end_after_run(member, head, head.rest, now) then
      return {'finished'}
    end
  elseif head.state ~= SCHEDULED then
    return {'finished'}
  elseif head.due > now then
    return {'early', head.due - now}
  end
  return obstacle(member, head, has_permit) or begin(member, head, spec)
end

local function leave_all_lines()
  local members = {}
  for member, _ in pairs(begun) do
    members[#members + 1] = member
  end
  call_for_all('ZREM', keys.waiting, members)
  for application, _ in pairs(begun_lines) do
    call_for_all('ZREM', keys.lines .. application, members)
  end
end

local answers = {}
for i, wake_up in ipairs(wake_ups) do
  local member, generation, has_permit = unpack(wake_up)
  answers[i] = bytes < MAX_ANSWER_BYTES and answer_to(member, generation, has_permit) or {'later'}
end
call_for_all('ZADD', keys.running, leases)
write_changes()
if may_wait then
  leave_all_lines()
end
local policies = {}
for application, policy in pairs(applications) do
  if policy then
    policies[#policies + 1] = application
    policies[#policies + 1] = policy.text
  end
end
return {answers, policies}
