-- host_index: note when hosts with lines are looked at next.
-- KEYS    lines
-- ARGV    1 'NX': add hosts, those that are there stay as they are; 'XX': change those that are there
--         2 msgpack [ms, host, ...]
-- RETURNS nothing

go_on_when_full(keys.lines)
local entries = cmsgpack.unpack(ARGV[2])
for i = 1, #entries, 2 do
  redis.call('ZADD', keys.lines, ARGV[1], entries[i], entries[i + 1])
end
