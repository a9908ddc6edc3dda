-- explain: what holds a timer up, read without changing anything.
-- KEYS    records, running, applications, destinations, lanes, lines, starts
-- ARGV    1 now   2 member
-- RETURNS {now ms, record or '', its application's policy or '', its host, the host's policy or '', the member whose
--          turn it is in the lane or '', its reserved start in ms or '', lease end or '', not '' when it is in line}
--         or {now ms, record or ''} when there is no record that can be read

local now, member = now_ms(ARGV[1]), ARGV[2]
local record = redis.call('GET', keys.records .. member)
local head = record and read_head(record)
if not head or not read_spec(head) then
  return {now, record or ''}
end
local host = head.host
local first = head.lane ~= '' and redis.call('ZRANGE', keys.lanes .. lane_name(member, head.lane), 0, 0)[1]
return {
  now,
  record,
  redis.call('HGET', keys.applications, application_of(member)) or '',
  host,
  redis.call('HGET', keys.destinations, host) or '',
  first or '',
  redis.call('ZSCORE', keys.starts .. host, member) or '',
  redis.call('ZSCORE', keys.running, member) or '',
  redis.call('ZSCORE', keys.lines .. host_line(host), member) or ''
}
