-- cancel: end a timer before it is sent, or delete one that has failed.
-- KEYS    records, due, finished, retention, outbox, counts, lanes, lines, starts, waiting, archive_layers,
--         archive_counts
-- ARGV    1 now   2 member   3 version or ''   4 retention of the record, ms (0: none)
--         5 archive layer number   6 msgpack [bit positions]
-- RETURNS {{'changed', state letter before, due ms, generation} | {'gone'} | {'state', its letter}
--          | {'version', its state letter}, ids in the archive layer}

local now = now_ms(ARGV[1])
local member, version, retention, layer, positions =
  ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], cmsgpack.unpack(ARGV[6])

local function archive()
  local new = false
  for _, position in ipairs(positions) do
    new = redis.call('SETBIT', keys.archive_layers .. layer, position, 1) == 0 or new
  end
  if new then
    redis.call('HINCRBY', keys.archive_counts, layer, 1)
  end
end

local function cancel()
  local head = head_of(member)
  if not head or not read_spec(head) or is_over(member, head, now) then
    return {'gone'}
  end
  if head.state ~= SCHEDULED and head.state ~= FAILED then
    return {'state', head.state}
  end
  if version ~= '' and version ~= version_of(head) then
    return {'version', head.state}
  end

  local before = head.state
  leave_place(member, head, now)
  if before == SCHEDULED then
    redis.call('ZREM', keys.due, member)
    archive()
  end
  if before == SCHEDULED and retention > 0 then
    head.state = CANCELLED
    write_record(member, head, head.rest)
    redis.call('ZADD', keys.finished, head.due, member)
    redis.call('ZADD', keys.retention, now + retention, member)
    count_move(member, before, CANCELLED)
  else
    redis.call('DEL', keys.records .. member)
    count_move(member, before, nil)
  end
  write_counts()
  return {'changed', before, head.due, head.generation}
end

local answer = cancel()
return {answer, tonumber(redis.call('HGET', keys.archive_counts, layer) or 0)}
