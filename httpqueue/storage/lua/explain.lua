-- explain: read what holds a timer up. Changes nothing.
-- KEYS    records, running, applications, lanes
-- ARGV    1 now   2 member
-- RETURNS {now ms, record, its application's policy or '', its host, the first member of its lane or '',
--          its lease end (ms) or ''}
--         or {now ms, record or '', partition or ''} when there is no readable record. partition: the timer is there

local now, member = now_ms(ARGV[1]), ARGV[2]
local record = redis.call('GET', keys.records .. member)
local head = record and read_head(record)
if not head or not read_spec(head) then
  return {now, record or '', record and read_pointer(record) or ''}
end
local first = head.lane ~= '' and redis.call('ZRANGE', keys.lanes .. lane_name(member, head.lane), 0, 0)[1]
return {
  now,
  record,
  redis.call('HGET', keys.applications, application_of(member)) or '',
  head.host,
  first or '',
  redis.call('ZSCORE', keys.running, member) or ''
}
