-- inspect: where timers stand, all at one instant. Changes nothing.
-- KEYS    records, due, held, ended, running, retention, pointers, lanes, lines, waiting, set_aside
-- ARGV    1 now   2 msgpack [member, ...]
-- RETURNS {now ms, msgpack [[kind, state letter or '', generation, due ms, ordering key, host,
--          partition that a pointer names or -1, nonce,
--          its scores in due, held, running, retention, its lane, its line, waiting, pointers and set_aside,
--          letters of the ended indices it is in, is it the first of its lane?], ...]}
--         kind: 'timer', 'pointer', 'newer' (of the next format), 'damaged' or 'none' (no record). A score is false
--         where it is in no such index.

local now = now_ms(ARGV[1])

local function kind_of(record)
  local head = record and read_head(record)
  if not record then
    return 'none'
  elseif head and read_spec(head) then
    return 'timer', head
  elseif not head and read_pointer(record) then
    return 'pointer'
  end
  return is_newer(record) and 'newer' or 'damaged', head
end

local function score(key, member)
  return tonumber(redis.call('ZSCORE', key, member) or nil) or false
end

local function ended_in(member)
  local letters = ''
  for _, state in ipairs({DONE, FAILED, CANCELLED}) do
    if redis.call('ZSCORE', ended_index(member, state), id_of(member)) then
      letters = letters .. state
    end
  end
  return letters
end

local answers = {}
for i, member in ipairs(cmsgpack.unpack(ARGV[2])) do
  local record = redis.call('GET', keys.records .. member)
  local kind, head = kind_of(record)
  local application, id = application_of(member), id_of(member)
  local partition, nonce = read_pointer(record or '')
  local lane = head and head.lane ~= '' and keys.lanes .. lane_name(member, head.lane)
  local turn = lane and redis.call('ZSCORE', lane, member)
  answers[i] = {
    kind, head and head.state or '', head and head.generation or 0, head and head.due or 0, head and head.lane or '',
    head and head.host or '', partition or -1, head and head.nonce or nonce or '',
    score(keys.due .. application, id), score(keys.held .. application, id), score(keys.running, member),
    score(keys.retention, member), turn == TURN and 0 or tonumber(turn or nil) or false,
    score(keys.lines .. application, member), score(keys.waiting, member), score(keys.pointers, member),
    score(keys.set_aside, member), ended_in(member), lane and redis.call('ZRANGE', lane, 0, 0)[1] == member or false
  }
end
return {now, cmsgpack.pack(answers)}
