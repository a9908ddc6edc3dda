-- host_facts: read where wake-ups stand at the host. Changes nothing.
-- KEYS    rules, line, permits, pace
-- ARGV    1 now   2 msgpack [member, ...]
-- RETURNS {rules as JSON or '', {place, start ms, ...}}
-- place: 'line', 'permit' or ''. start: when the rate lets a wake-up in the line start; 0: see host_serve.
-- A permit that has expired does not count: maybe nobody looks at this host any more.

local now, members = now_ms(ARGV[1]), cmsgpack.unpack(ARGV[2])
local rules = read_rules()
local start = next_start(rules, now, now - CATCH_UP_MS)
local may_start = rules.rate and not rules.paused and free_permits(rules) > 0
local places = {}

local function add(place, start_ms)
  places[#places + 1] = place
  places[#places + 1] = start_ms
end

for _, member in ipairs(members) do
  local rank = redis.call('ZRANK', keys.line, member)
  if rank then
    local at = may_start and start_of_rank(rules, start, rank) or 0
    add('line', at > now and at or 0)
  else
    local lease_end = tonumber(redis.call('ZSCORE', keys.permits, member) or 0)
    add(lease_end > now and 'permit' or '', 0)
  end
end
return {redis.call('GET', keys.rules) or '', places}
