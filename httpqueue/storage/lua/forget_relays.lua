-- forget_relays: drop relays that were killed from the outbox's consumer group.
-- KEYS    outbox
-- ARGV    1 name of the group   2 how long a relay that is gone has been silent, ms
-- RETURNS how many were dropped
-- A relay with unacknowledged entries stays until another one has adopted them. One that lives comes back by itself.

local dropped = 0
local relays = redis.pcall('XINFO', 'CONSUMERS', keys.outbox, ARGV[1])
for _, relay in ipairs(relays.err and {} or relays) do
  local values = {}
  for i = 1, #relay, 2 do
    values[relay[i]] = relay[i + 1]
  end
  if values.pending == 0 and values.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', keys.outbox, ARGV[1], values.name)
    dropped = dropped + 1
  end
end
return dropped
