-- forget: drop the records of finished timers whose retention is over; the archive knows their ids.
-- KEYS    records, finished, retention, counts
-- ARGV    1 now   2 limit
-- RETURNS how many were dropped

local now, limit = now_ms(ARGV[1]), ARGV[2]
local members = redis.call('ZRANGEBYSCORE', keys.retention, '-inf', now, 'LIMIT', 0, limit)
local records = {}
for i, member in ipairs(members) do
  records[i] = keys.records .. member
  local head = short_head_of(member)
  if head then
    count_move(member, head.state, nil)
  end
end
call_for_all('DEL', nil, records)
call_for_all('ZREM', keys.finished, members)
call_for_all('ZREM', keys.retention, members)
write_counts()
return #members
