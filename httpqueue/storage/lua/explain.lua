-- explain: what holds a timer up, read without changing anything.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now   2 member
-- RETURNS {now ms, record or '', application's settings or '', host, its settings or '', the member whose turn it is
--          in the lane or '', ms at which its host lets it start or '', lease end or '', not '' when it is in line}

local keys = store_keys()
local now, member = now_ms(ARGV[1]), ARGV[2]
local record = redis.call('GET', keys.records .. member)
local head = record and read_head(record)
local spec = head and read_spec(head)
if not spec then
  return {now, record or ''}
end
local host = host_of(spec)
local first = head.lane ~= '' and redis.call('ZRANGE', lane_key(keys.lanes, member, head.lane), 0, 0)[1]
return {
  now,
  record,
  redis.call('HGET', keys.applications, application_of(member)) or '',
  host,
  redis.call('HGET', keys.destinations, host) or '',
  first or '',
  redis.call('ZSCORE', keys.slots .. host, member) or '',
  redis.call('ZSCORE', keys.running, member) or '',
  redis.call('ZSCORE', keys.lines .. 'host:' .. host, member) or ''
}
