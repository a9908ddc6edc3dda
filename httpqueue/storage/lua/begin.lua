-- begin: start an attempt for each wake-up whose timer is due, unless something holds the timer up.
-- KEYS    records, due, held, next, running, up, counts, applications, destinations, lanes, lines, permits, next_start,
--         starts, set_aside, waiting, probes, outbox
-- ARGV    1 now   2 holder: names the worker and this call; a repeated call has the same holder
--         3 timeout of timers without one, ms   4 how much longer a lease is than the timeout, ms
--         5 longest lease, ms
--         6 msgpack {host: calls that the worker may still make}; a host that is not there is not limited
--         7 msgpack [[member, generation], ...]
-- RETURNS {an answer for each wake-up, {application, its policy as JSON, ...}}. An answer is one of
--         {'begun', attempt, workers lost in it, due ms, now ms, lease ms, nonce, spec, host}
--         {'early', ms until it is due}
--         {'waiting', reserved start in ms since the epoch, or 0 when it waits in a line}
--         {'paused'}    its application or host is paused
--         {'blocked'}   another timer of its lane comes first
--         {'later'}     the whole answer is long enough: ask again
--         {'gone'}      there is no record
--         {'stale'}     the timer has another generation
--         {'finished' | 'running' | 'unreadable'}
-- A running timer whose lease has ended has lost its worker: the same attempt begins again.

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local holder, usual_timeout, margin, longest_lease, room, wake_ups =
  ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), cmsgpack.unpack(ARGV[6]), cmsgpack.unpack(ARGV[7])
local MISSED_MS = 1000 -- a start that passed less than this long ago is not missed: workers take a while
local applications, destinations = {}, {} -- name -> {text, values}; false: no policy
local begun, leases, begun_lines = {}, {}, {} -- begun: set of members; begun_lines: lines they may be in
local may_wait = redis.call('EXISTS', keys.waiting, keys.probes) > 0 -- usually false: no timer waits anywhere
local since = up_since(now)
local bytes = 0

local function policy_of(cache, key, name)
  if cache[name] == nil then
    local text = redis.call('HGET', key, name)
    cache[name] = text and {text = text, values = cjson.decode(text)} or false
  end
  return cache[name]
end

-- The reserved start (ms) of a timer under its host's rate. Starts are 1/rate s apart, and a timer keeps its
-- start. A missed start is reserved again, or all missed ones would start at once. With `concurrency` it is
-- kept, because that may have delayed the timer.
local function reserve_start(host, rate, concurrency, member)
  local starts, next_start = keys.starts .. host, keys.next_start .. host
  local start = tonumber(redis.call('ZSCORE', starts, member) or nil)
  if not start or not concurrency and start + math.max(MISSED_MS, 1000 / rate) < now then
    start = math.max(tonumber(redis.call('GET', next_start) or 0), now)
    local following = string.format('%.3f', start + 1000 / rate)
    redis.call('SET', next_start, following, 'PX', math.ceil(following - now) + 1000)
    redis.call('ZADD', starts, start, member)
  end
  return math.ceil(start)
end

-- The answer when the rate or concurrency of its host holds the timer up; nil when it may start.
local function host_obstacle(member, head, policy)
  local host, rate, concurrency = head.host, policy.rate, policy.concurrency
  local start = rate and reserve_start(host, rate, concurrency, member) or now
  if start > now then
    redis.call('ZADD', keys.waiting, start, member)
    place_in('held', member, head.due)
    return {'waiting', start}
  end
  if concurrency then
    redis.call('ZREMRANGEBYSCORE', keys.permits .. host, '-inf', now)
    if redis.call('ZCARD', keys.permits .. host) >= concurrency then
      join_line(host_line(host), member, head, now)
      return {'waiting', 0}
    end
  end
  return nil
end

-- The answer when something holds the timer up; nil when it may start.
local function obstacle(member, head)
  local host = head.host
  local application = policy_of(applications, keys.applications, application_of(member))
  if application and application.values.paused then
    join_line(application_line(member), member, head, now)
    return {'paused'}
  end
  local destination = policy_of(destinations, keys.destinations, host)
  if destination and destination.values.paused then
    join_line(host_line(host), member, head, now)
    return {'paused'}
  end
  if is_blocked(member, head.lane) then
    place_in('held', member, head.due)
    probe_later('lane:' .. lane_name(member, head.lane), now)
    return {'blocked'}
  end
  if room[host] and room[host] < 1 then
    join_line(host_line(host), member, head, now)
    return {'waiting', 0}
  end
  return destination and host_obstacle(member, head, destination.values)
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
  local host = head.host
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
  if destinations[host] then
    redis.call('ZREM', keys.starts .. host, member)
    if destinations[host].values.concurrency then
      redis.call('ZADD', keys.permits .. host, now + lease_of(head), member)
    end
  end
  room[host] = room[host] and room[host] - 1
  if may_wait then
    begun_lines[host_line(host)], begun_lines[application_line(member)] = true, true
  end
  return answer_begun(member, head, spec)
end

local function answer_to(member, generation)
  local record = redis.call('GET', keys.records .. member)
  if not record then
    return {'gone'}
  end
  local head = read_head(record)
  local spec = head and read_spec(head)
  if not spec then
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
  elseif head.state ~= SCHEDULED then
    return {'finished'}
  elseif head.due > now then
    return {'early', head.due - now}
  end
  return obstacle(member, head) or begin(member, head, spec)
end

local function leave_all_lines()
  local members = {}
  for member, _ in pairs(begun) do
    members[#members + 1] = member
  end
  call_for_all('ZREM', keys.waiting, members)
  for line, _ in pairs(begun_lines) do
    call_for_all('ZREM', keys.lines .. line, members)
  end
end

local answers = {}
for i, wake_up in ipairs(wake_ups) do
  local member, generation = unpack(wake_up)
  answers[i] = bytes < MAX_ANSWER_BYTES and answer_to(member, generation) or {'later'}
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
