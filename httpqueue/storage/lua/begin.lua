-- begin: start an attempt for each wake-up whose timer is due and that nothing holds up.
-- KEYS    records, due, running, counts, applications, destinations, lanes, lines, permits, next_start, starts,
--         set_aside, waiting
-- ARGV    1 now   2 lease ms   3 how much longer a lease is than a timer's own timeout, ms
--         4 msgpack {host: calls that the worker has still room for}, of those that have not room for all
--         5 msgpack [[member, generation], ...]
-- RETURNS {an answer for each wake-up, {application, its policy, ...}}, an answer being
--         {'begun', attempt, due ms, now ms, spec, host}
--         {'early', ms until it is due}
--         {'waiting', when its host lets it start, ms, 0: not known}
--         {'paused'}    its application or host is
--         {'blocked'}   another timer of its ordering key comes first
--         {'gone' | 'stale' | 'finished' | 'running' | 'unreadable'}
-- A timer that runs past its lease has lost its worker and begins again.

local now = now_ms(ARGV[1])
local lease, margin, room, wake_ups =
  tonumber(ARGV[2]), tonumber(ARGV[3]), cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])
local MISSED_MS = 1000 -- a reserved start is missed by more than that, as workers take a while to come
local applications, destinations = {}, {} -- name -> {text, values}, or false
local begun, leases, begun_lines = {}, {}, {} -- begun: a set; begun_lines: lines in which they may have waited
local may_wait = redis.call('EXISTS', keys.waiting) == 1 -- most of the time no timer does

local function policy_of(cache, key, name)
  if cache[name] == nil then
    local text = redis.call('HGET', key, name)
    cache[name] = text and {text = text, values = cjson.decode(text)} or false
  end
  return cache[name]
end

local function join_line(line, member, due, answer)
  redis.call('ZADD', line, due, member)
  redis.call('ZADD', keys.waiting, LATER, member)
  return answer
end

-- When a host's rate lets a timer start: starts are reserved 1/rate s apart, and a timer keeps the one it was given.
-- Missed starts are reserved anew, or all of them would be taken at once; not when `concurrency` is what delays them.
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

-- nil, or the answer that names which rule of its host holds the timer up.
local function host_obstacle(member, head, policy)
  local host, rate, concurrency = head.host, policy.rate, policy.concurrency
  local start = rate and reserve_start(host, rate, concurrency, member) or now
  if start > now then
    redis.call('ZADD', keys.waiting, start, member)
    return {'waiting', start}
  end
  if concurrency then
    redis.call('ZREMRANGEBYSCORE', keys.permits .. host, '-inf', now)
    if redis.call('ZCARD', keys.permits .. host) >= concurrency then
      return join_line(host_line(host), member, head.due, {'waiting', 0})
    end
  end
  return nil
end

-- nil, or the answer that names what holds the timer up.
local function obstacle(member, head)
  local application, host = application_of(member), head.host
  local application_policy = policy_of(applications, keys.applications, application)
  if application_policy and application_policy.values.paused then
    return join_line(application_line(application), member, head.due, {'paused'})
  end
  local destination = policy_of(destinations, keys.destinations, host)
  if destination and destination.values.paused then
    return join_line(host_line(host), member, head.due, {'paused'})
  end
  if is_blocked(member, head.lane) then
    return {'blocked'}
  end
  if room[host] and room[host] < 1 then
    return join_line(host_line(host), member, head.due, {'waiting', 0})
  end
  return destination and host_obstacle(member, head, destination.values)
end

local function begin(member, head, spec)
  local host = head.host
  local lease_end = now + (head.timeout > 0 and head.timeout + margin or lease)
  count_move(member, head.state, RUNNING)
  head.state = RUNNING
  head.attempts = head.attempts + 1
  write_record(member, head, head.rest)
  if head.lane ~= '' then
    redis.call('ZADD', lane_key(member, head.lane), TURN, member)
  end
  if destinations[host] then
    redis.call('ZREM', keys.starts .. host, member)
    if destinations[host].values.concurrency then
      redis.call('ZADD', keys.permits .. host, lease_end, member)
    end
  end
  room[host] = room[host] and room[host] - 1
  if may_wait then
    begun_lines[host_line(host)], begun_lines[application_line(application_of(member))] = true, true
  end
  begun[member] = true
  leases[#leases + 1] = lease_end
  leases[#leases + 1] = member
  return {'begun', head.attempts, head.due, now, spec, host}
end

local function answer_to(member, generation)
  local record = redis.call('GET', keys.records .. member)
  if not record then
    return {'gone'}
  end
  local head = read_head(record)
  local spec = head and read_spec(head)
  if not spec then
    set_aside(member, now)
    return {'unreadable'}
  end
  if head.generation ~= generation then
    return {'stale'}
  end
  if head.state == RUNNING then
    if begun[member] or tonumber(redis.call('ZSCORE', keys.running, member) or 0) > now then
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
    call_for_all('ZREM', line, members)
  end
end

local answers = {}
for i, wake_up in ipairs(wake_ups) do
  local member, generation = unpack(wake_up)
  answers[i] = answer_to(member, generation)
end
call_for_all('ZADD', keys.running, leases)
write_counts()
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
