-- forget: put the ids of timers whose retention is over into the archive, and drop their records.
-- KEYS    records, ended, retention, counts, archive_layers, archive_counts
-- ARGV    1 now   2 archive layer number
--         3 msgpack [[member, [bit positions], or [] when `bury` has set them at its home], ...], from `expired`
-- RETURNS {how many records were dropped, how many ids the archive layer now has,
--          {nonce of each record dropped that `bury` has seen, '' for one that is kept or unreadable, ...}}
-- A timer that was created anew since `expired` is skipped: its retention is not over.

go_on_when_full(keys.retention)
local now = now_ms(ARGV[1])
local layer, items = ARGV[2], cmsgpack.unpack(ARGV[3])
local bits = keys.archive_layers .. layer
local archived = 0
local records, members, ended, nonces = {}, {}, {}, {}

-- An unreadable record does not tell its state, so all ended indices are tried.
local function leave_any_index(member)
  for _, state in ipairs({DONE, FAILED, CANCELLED}) do
    if redis.call('ZREM', ended_index(member, state), id_of(member)) == 1 then
      count_move(member, state, nil)
    end
  end
end

for _, item in ipairs(items) do
  local member, positions = unpack(item)
  local nonce = ''
  if tonumber(redis.call('ZSCORE', keys.retention, member) or math.huge) <= now then
    archived = archived + set_bits(bits, positions)
    local head = short_head_of(member)
    count_change(member, BYTES, -redis.call('STRLEN', keys.records .. member))
    records[#records + 1] = keys.records .. member
    members[#members + 1] = member
    if head then
      nonce = head.nonce
      local index = ended_index(member, head.state)
      ended[index] = ended[index] or {}
      table.insert(ended[index], id_of(member))
      count_move(member, head.state, nil)
    else
      leave_any_index(member)
    end
  end
  if #positions == 0 then
    nonces[#nonces + 1] = nonce
  end
end
call_for_all('DEL', nil, records)
call_for_all('ZREM', keys.retention, members)
for index, ids in pairs(ended) do
  call_for_all('ZREM', index, ids)
end
write_counts()
return {#members, redis.call('HINCRBY', keys.archive_counts, layer, archived), nonces}
