-- point: note at the homes of timers with ordering keys in which partitions they are. It comes before `create`.
-- KEYS    records, pointers
-- ARGV    1 now   2 1: even when the server is full   3 msgpack [[member, partition, nonce], ...]
-- RETURNS {until when `create` may come, ms, {for each timer -1: noted; or the partition that has another timer of
--          this name}}
-- A pointer to the same partition gets the new nonce, so that nobody who saw the old one drops it.

if ARGV[2] == '1' then
  go_on_when_full(keys.pointers)
end
local now = now_ms(ARGV[1])
local own = tonumber(string.match(keys.records, '{(%d+)}'))
local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local member, partition, nonce = unpack(item)
  local record = redis.call('GET', keys.records .. member)
  local known = record and (read_pointer(record) or own)
  if known and known ~= partition then
    answers[i] = known
  else
    redis.call('SET', keys.records .. member, cmsgpack.pack(FORMAT, 'p', partition, nonce))
    redis.call('ZADD', keys.pointers, now + POINTER_CHECK_MS, member)
    answers[i] = -1
  end
end
return {now + POINTER_CHECK_MS / 2, answers}
