-- expired: timers whose retention is over; the archive learns their ids, then `drop` takes them out.
-- KEYS    records, retention
-- ARGV    1 now   2 limit
-- RETURNS {member, nonce, generation, ...}; a record that cannot be read has the nonce ''

local now, limit = now_ms(ARGV[1]), ARGV[2]
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.retention, '-inf', now, 'LIMIT', 0, limit)) do
  local head = short_head_of(member)
  found[#found + 1] = member
  found[#found + 1] = head and head.nonce or ''
  found[#found + 1] = head and head.generation or 0
end
return found
