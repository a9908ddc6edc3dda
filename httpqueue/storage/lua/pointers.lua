-- pointers: those that are to be checked.
-- KEYS    records, pointers
-- ARGV    1 now   2 limit
-- RETURNS {member, partition that it points to (-1: it is no pointer), nonce, ...}

local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.pointers, '-inf', now_ms(ARGV[1]), 'LIMIT', 0, ARGV[2])) do
  local record = redis.call('GET', keys.records .. member)
  local partition, nonce = read_pointer(record or '')
  local n = #found
  found[n + 1], found[n + 2], found[n + 3] = member, partition or -1, nonce or ''
end
return found
