-- begin: start an attempt for each wake-up whose timer is due and that nothing holds up.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now   2 lease ms   3 how much longer a lease is than a timer's own timeout, ms
--         4 msgpack {host: calls that the worker has still room for}, of those that have not room for all
--         5 msgpack [[member, generation], ...]
-- RETURNS {an answer for each wake-up, {application, its settings, ...}}, an answer being
--         {'begun', attempt, due ms, now ms, spec, host}
--         {'early', ms until it is due}
--         {'waiting', when its host lets it start, ms, 0: not known}
--         {'paused'}    its application or host is
--         {'blocked'}   another timer of its ordering key comes first
--         {'gone' | 'stale' | 'finished' | 'running' | 'unreadable'}
-- A timer that runs past its lease has lost its worker and begins again.

local keys = store_keys()
local now = now_ms(ARGV[1])
local lease, margin = tonumber(ARGV[2]), tonumber(ARGV[3])
local room = cmsgpack.unpack(ARGV[4])
local counts = counter(keys.counts)
local may_wait = redis.call('EXISTS', keys.waiting) == 1 -- most of the time nobody does
local leases, leased, left = {}, {}, {} -- left: the lines that the begun may have waited in
local applications, destinations = {}, {}
local MISSED_MS = 1000 -- a slot is missed by more than that, as workers take a while to come

local function settings_of(cache, key, name)
  if cache[name] == nil then
    local text = redis.call('HGET', key, name)
    cache[name] = text and {text = text, values = cjson.decode(text)} or false
  end
  return cache[name]
end

local function wait_in_line(name, member, due, answer)
  redis.call('ZADD', keys.lines .. name, due, member)
  redis.call('ZADD', keys.waiting, AT_LAST, member)
  return answer
end

-- One slot after the other, 1/rate s apart; a timer keeps the one it was given.
-- Slots that were missed are given anew, or all of them would be taken at once; not when `concurrency` prevents that.
local function slot_of(host, rate, concurrency, member)
  local slots, key = keys.slots .. host, keys.rates .. host
  local slot = tonumber(redis.call('ZSCORE', slots, member) or nil)
  if not slot or not concurrency and slot + math.max(MISSED_MS, 1000 / rate) < now then
    slot = math.max(tonumber(redis.call('GET', key) or 0), now)
    local next_slot = string.format('%.3f', slot + 1000 / rate)
    redis.call('SET', key, next_slot, 'PX', math.ceil(next_slot - now) + 1000)
    redis.call('ZADD', slots, slot, member)
  end
  return math.ceil(slot)
end

-- nil, or the answer that names what holds the timer up.
local function obstacle(member, head, spec, host)
  local application = settings_of(applications, keys.applications, application_of(member))
  if application and application.values.paused then
    return wait_in_line('application:' .. application_of(member), member, head.due, {'paused'})
  end
  local destination = settings_of(destinations, keys.destinations, host)
  if destination and destination.values.paused then
    return wait_in_line('host:' .. host, member, head.due, {'paused'})
  end
  if is_blocked(keys, member, head.lane) then
    return {'blocked'}
  end
  if room[host] and room[host] < 1 then
    return wait_in_line('host:' .. host, member, head.due, {'waiting', 0})
  end
  if not destination then
    return nil
  end
  local rate, concurrency = destination.values.rate, destination.values.concurrency
  local slot = rate and slot_of(host, rate, concurrency, member) or now
  if slot > now then
    redis.call('ZADD', keys.waiting, slot, member)
    return {'waiting', slot}
  end
  if concurrency then
    redis.call('ZREMRANGEBYSCORE', keys.calls .. host, '-inf', now)
    if redis.call('ZCARD', keys.calls .. host) >= concurrency then
      return wait_in_line('host:' .. host, member, head.due, {'waiting', 0})
    end
  end
  return nil
end

local function begin(member, head, spec, host)
  local lease_end = now + (head.timeout > 0 and head.timeout + margin or lease)
  counts.move(member, head.state, RUNNING)
  head.state = RUNNING
  head.attempts = head.attempts + 1
  redis.call('SET', keys.records .. member, write_record(head, head.rest))
  if head.lane ~= '' then
    redis.call('ZADD', lane_key(keys.lanes, member, head.lane), TURN, member)
  end
  local destination = destinations[host]
  if destination then
    redis.call('ZREM', keys.slots .. host, member)
    if destination.values.concurrency then
      redis.call('ZADD', keys.calls .. host, lease_end, member)
    end
  end
  room[host] = room[host] and room[host] - 1
  if may_wait then
    left['host:' .. host], left['application:' .. application_of(member)] = true, true
  end
  leased[member] = true
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
    -- out of the due index, or it would come back for ever; the record itself stays for inspection
    redis.call('ZREM', keys.due, member)
    redis.call('ZREM', keys.running, member)
    redis.call('ZADD', keys.set_aside, now, member)
    return {'unreadable'}
  end
  if head.generation ~= generation then
    return {'stale'}
  end
  if head.state == RUNNING then
    if leased[member] or tonumber(redis.call('ZSCORE', keys.running, member) or 0) > now then
      return {'running'}
    end
  elseif head.state ~= SCHEDULED then
    return {'finished'}
  elseif head.due > now then
    return {'early', head.due - now}
  end
  local host = host_of(spec)
  return obstacle(member, head, spec, host) or begin(member, head, spec, host)
end

local answers = {}
for i, wake_up in ipairs(cmsgpack.unpack(ARGV[5])) do
  answers[i] = answer_to(wake_up[1], wake_up[2])
end
call_for_all('ZADD', keys.running, leases)
counts.write()

if may_wait then
  local begun = {}
  for member, _ in pairs(leased) do
    begun[#begun + 1] = member
  end
  call_for_all('ZREM', keys.waiting, begun)
  for line, _ in pairs(left) do
    call_for_all('ZREM', keys.lines .. line, begun)
  end
end
local found = {}
for name, application in pairs(applications) do
  if application then
    found[#found + 1] = name
    found[#found + 1] = application.text
  end
end
return {answers, found}
