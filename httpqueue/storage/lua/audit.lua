-- audit: write down changes that were made over the API.
-- KEYS    timers, settings
-- ARGV    1 how many changes to keep, at least, in each stream
--         2 msgpack [whether it is of a setting, change, ...]
-- RETURNS nothing
-- The log does not grow once it is full, so it goes on at maxmemory: the first command needs no memory.

local kept, changes = ARGV[1], cmsgpack.unpack(ARGV[2])

redis.call('XTRIM', keys.timers, 'MAXLEN', '~', kept)
redis.call('XTRIM', keys.settings, 'MAXLEN', '~', kept)
for i = 1, #changes, 2 do
  redis.call('XADD', changes[i] and keys.settings or keys.timers, '*', 'change', changes[i + 1])
end
