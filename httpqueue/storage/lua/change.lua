-- change: give timers another content or due time, each under its next generation; attempts count from 1 again.
-- KEYS    those of the store, see common.lua
-- ARGV    1 now
--         2 msgpack [[member, letters of the states it may be in, version or '', spec or '' (keep), timeout ms,
--           ordering key, ms or false (keep), ms counts from now?], ...]
-- RETURNS a timer {'changed', state letter before, due ms, generation}
--         {'gone'} | {'state', its letter} | {'version', its state letter}
-- A version is `generation.attempts.state letter`: what the client has seen must still be so.

local keys = store_keys()
local now = now_ms(ARGV[1])
local counts = counter(keys.counts)

local function change(member, head, spec, wish)
  local new_spec, ms, from_now = wish[4], wish[7], wish[8]
  local from_state = head.state
  local rest = head.rest
  leave_place(keys, member, head, spec)
  if new_spec ~= '' then
    local log = {select(3, pcall(cmsgpack.unpack, rest))}
    rest = cmsgpack.pack(new_spec, unpack(log))
    head.timeout, head.lane = wish[5], wish[6]
  end
  if ms then
    head.due = from_now and now + ms or ms
  end
  head.state, head.generation, head.attempts = SCHEDULED, head.generation + 1, 0
  schedule(keys, counts, member, head, rest, from_state)
  return {'changed', from_state, head.due, head.generation}
end

local answers = {}
for i, wish in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, states, version = wish[1], wish[2], wish[3]
  local record = redis.call('GET', keys.records .. member)
  local head = record and read_head(record)
  local spec = head and read_spec(head)
  if not spec or is_over(keys, member, head, now) then
    answers[i] = {'gone'}
  elseif not string.find(states, head.state, 1, true) then
    answers[i] = {'state', head.state}
  elseif version ~= '' and version ~= string.format('%.0f.%.0f.%s', head.generation, head.attempts, head.state) then
    answers[i] = {'version', head.state}
  else
    answers[i] = change(member, head, spec, wish)
  end
end
counts.write()
return answers
