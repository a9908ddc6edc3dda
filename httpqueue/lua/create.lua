-- create: store timers, each with its place in the due index and its outbox entry.
-- KEYS    1 record prefix   2 due index   3 outbox
-- ARGV    1 now   2 msgpack [[member, spec, ms, ms counts from now?], ...]
-- RETURNS a timer {'created' | 'exists' | 'conflict', due ms of the timer that has the id}
-- An id that is taken is refused: 'exists' when the specs are the same, else 'conflict'.

local now = now_ms(ARGV[1])
local answers, due_index = {}, {}
for i, timer in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, spec, ms, from_now = timer[1], timer[2], timer[3], timer[4]
  local key = KEYS[1] .. member
  local record = redis.call('GET', key)
  if record then
    local head = read_head(record)
    answers[i] = {head and read_spec(head) == spec and 'exists' or 'conflict', head and head.due or 0}
  else
    local due = from_now and now + ms or ms
    local head = {state = SCHEDULED, generation = 0, attempts = 0, due = due}
    redis.call('SET', key, write_record(head, cmsgpack.pack(spec, '')))
    due_index[#due_index + 1] = due
    due_index[#due_index + 1] = member
    redis.call('XADD', KEYS[3], '*', 'timer', member, 'generation', 0, 'due', due)
    answers[i] = {'created', due}
  end
end
call_for_all('ZADD', KEYS[2], due_index)
return answers
