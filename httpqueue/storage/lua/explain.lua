-- explain: read what holds a timer up. Changes nothing.
-- KEYS    records, running, applications, destinations, lanes, lines, starts
-- ARGV    1 now   2 member
-- RETURNS {now ms, record, its application's policy or '', its host, the host's policy or '',
--          the first member of its lane or '', its reserved start (ms) or '', its lease end (ms) or '',
--          its score in the host's line or ''}
--         or {now ms, record or ''} when there is no readable record

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
