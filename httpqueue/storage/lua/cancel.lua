-- cancel: end a timer before it is sent, or delete one that has failed.
-- KEYS    those of the store, see common.lua, then   18 archive layer (bits)   19 archive counts
-- ARGV    1 now   2 member   3 version or ''   4 retention of the record, ms (0: none)
--         5 archive layer number   6 msgpack [bit positions]
-- RETURNS {{'changed', state letter before, due ms, generation} | {'gone'} | {'state', its letter}
--          | {'version', its state letter}, ids in the archive layer}

local keys = store_keys()
local now = now_ms(ARGV[1])
local member, version, ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
local counts = counter(keys.counts)

local function cancel()
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local spec = head and read_spec(head)
  if not spec or is_over(keys, member, head, now) then
    return {'gone'}
  end
  if head.state ~= SCHEDULED and head.state ~= FAILED then
    return {'state', head.state}
  end
  if version ~= '' and version ~= string.format('%.0f.%.0f.%s', head.generation, head.attempts, head.state) then
    return {'version', head.state}
  end

  local before = head.state
  if before == FAILED then
    redis.call('DEL', keys.records .. member)
    redis.call('ZREM', keys.finished, member)
    redis.call('ZREM', keys.retention, member)
    counts.move(member, FAILED, nil)
  else
    leave_lane(keys, member, head.lane)
    leave_lines(keys, member, spec)
    redis.call('ZREM', keys.due, member)
    head.state = CANCELLED
    local new = false
    for _, position in ipairs(cmsgpack.unpack(ARGV[6])) do
      new = redis.call('SETBIT', KEYS[18], position, 1) == 0 or new
    end
    if new then
      redis.call('HINCRBY', KEYS[19], ARGV[5], 1)
    end
    if ms > 0 then
      redis.call('SET', keys.records .. member, write_record(head, head.rest))
      redis.call('ZADD', keys.finished, head.due, member)
      redis.call('ZADD', keys.retention, now + ms, member)
      counts.move(member, SCHEDULED, CANCELLED)
    else
      redis.call('DEL', keys.records .. member)
      counts.move(member, SCHEDULED, nil)
    end
  end
  counts.write()
  return {'changed', before, head.due, head.generation}
end

local answer = cancel()
return {answer, tonumber(redis.call('HGET', KEYS[19], ARGV[5]) or 0)}
