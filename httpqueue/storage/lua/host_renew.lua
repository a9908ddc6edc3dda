-- host_renew: renew permits of the host. One that is there no more stays away.
-- KEYS    permits
-- ARGV    1 now   2 lease, ms   3 msgpack [member, ...]
-- RETURNS nothing

go_on_when_full(keys.permits)
local lease_end = now_ms(ARGV[1]) + ARGV[2]
for _, member in ipairs(cmsgpack.unpack(ARGV[3])) do
  redis.call('ZADD', keys.permits, 'XX', lease_end, member)
end
