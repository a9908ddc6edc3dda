-- bury: put ids into the archive at their homes, before `forget` drops their records in other partitions.
-- KEYS    records, pointers, archive_layers, archive_counts
-- ARGV    1 now   2 archive layer number   3 msgpack [[member, [bit positions]], ...]
-- RETURNS how many ids the archive layer now has

go_on_when_full(keys.pointers)
local now = now_ms(ARGV[1])
local layer, items = ARGV[2], cmsgpack.unpack(ARGV[3])
local archived = 0
for _, item in ipairs(items) do
  local member, positions = unpack(item)
  archived = archived + set_bits(keys.archive_layers .. layer, positions)
  local record = redis.call('GET', keys.records .. member)
  if read_pointer(record or '') then
    redis.call('ZADD', keys.pointers, now + POINTER_CHECK_MS, member) -- for the case that we die half-way
  end
end
return redis.call('HINCRBY', keys.archive_counts, layer, archived)
