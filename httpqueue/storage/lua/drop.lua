-- drop: take out the records of ended timers; the archive has their ids already.
-- KEYS    records, ended, retention, counts
-- ARGV    1 now   2 msgpack [[member, nonce, generation], ...] as `expired` found them
-- RETURNS how many were dropped
-- A timer that was created anew meanwhile stays.

local now = now_ms(ARGV[1])
local dropped = {}
for _, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, nonce, generation = unpack(item)
  local head = short_head_of(member)
  local is_same = (head and head.nonce or '') == nonce and (head and head.generation or 0) == generation
  if is_same and tonumber(redis.call('ZSCORE', keys.retention, member) or math.huge) <= now then
    dropped[#dropped + 1] = keys.records .. member
    redis.call('ZREM', keys.retention, member)
    for _, state in ipairs({DONE, FAILED, CANCELLED}) do -- a record that cannot be read does not say which one
      if redis.call('ZREM', ended_index(member, state), id_of(member)) == 1 then
        count_move(member, state, nil)
      end
    end
  end
end
call_for_all('DEL', nil, dropped)
write_counts()
return #dropped
