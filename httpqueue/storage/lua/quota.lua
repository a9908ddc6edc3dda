-- quota: note that an application is about to store timers; with several partitions, this comes before `create`.
-- KEYS    applications, rates, reserved
-- ARGV    1 now   2 application   3 token of this call   4 for how long it is noted, ms
--         5 msgpack [about how many bytes each timer takes, ...]
-- RETURNS {most pending timers or -1, most bytes or -1, how many timers others are about to store, their bytes,
--          {ms that each timer comes too early for the rate; 0: in time, ...}}, or {} when it has no limits
-- The caller counts what is stored after this, so of two who store at the same time one sees the other.

local now = now_ms(ARGV[1])
local application, token, lease, sizes = ARGV[2], ARGV[3], tonumber(ARGV[4]), cmsgpack.unpack(ARGV[5])

local policy = policy_of(application)
if not (policy.max_pending or policy.max_bytes or policy.max_rate) then
  return {}
end
local waits, timers, bytes = {}, 0, 0
for i, size in ipairs(sizes) do
  waits[i] = policy.max_rate and take_rate(application, policy.max_rate, now) or 0
  if waits[i] == 0 then
    timers, bytes = timers + 1, bytes + size
  end
end

local key = keys.reserved .. application
local other_timers, other_bytes = 0, 0
local found = redis.call('HGETALL', key)
for i = 1, #found, 2 do
  local until_ms, count, size = string.match(found[i + 1], '^(%d+) (%d+) (%d+)$')
  if tonumber(until_ms) > now then
    other_timers, other_bytes = other_timers + count, other_bytes + size
  else
    redis.call('HDEL', key, found[i])
  end
end
redis.call('HSET', key, token, string.format('%.0f %.0f %.0f', now + lease, timers, bytes))
redis.call('PEXPIRE', key, lease)
return {policy.max_pending or -1, policy.max_bytes or -1, other_timers, other_bytes, waits}
