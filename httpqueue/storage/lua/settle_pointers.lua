-- settle_pointers: drop pointers that point to no record, and check the others no more.
-- KEYS    records, pointers
-- ARGV    1 now   2 msgpack [[member, nonce that the pointer had, is there a record?], ...]
-- A pointer that has another nonce is for another timer of the name, whose record may not be there yet.

go_on_when_full(keys.pointers)
local now = now_ms(ARGV[1])
for _, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, nonce, is_there = unpack(item)
  local record = redis.call('GET', keys.records .. member)
  local partition, known = read_pointer(record or '')
  if is_there then
    if tonumber(redis.call('ZSCORE', keys.pointers, member) or now) <= now then
      redis.call('ZREM', keys.pointers, member)
    end
  elseif not partition or known == nonce then
    redis.call('ZREM', keys.pointers, member)
    if partition then
      redis.call('DEL', keys.records .. member)
    end
  end
end
