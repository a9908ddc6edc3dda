-- forget: drop the records of finished timers whose retention is over; the archive knows their ids.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now   2 limit
-- RETURNS how many were dropped

local keys = store_keys()
local counts = counter(keys.counts)
local members = redis.call('ZRANGEBYSCORE', keys.retention, '-inf', now_ms(ARGV[1]), 'LIMIT', 0, ARGV[2])
local records = {}
for i, member in ipairs(members) do
  records[i] = keys.records .. member
  local record = redis.call('GETRANGE', records[i], 0, HEAD_BYTES)
  local head = record ~= '' and read_head(record)
  if head then
    counts.move(member, head.state, nil)
  end
end
call_for_all('DEL', nil, records)
call_for_all('ZREM', keys.finished, members)
call_for_all('ZREM', keys.retention, members)
counts.write()
return #members
