-- ready: which timers could begin now if their hosts let them. Changes nothing that counts.
-- KEYS    records, running, up, applications, lanes
-- ARGV    1 now   2 msgpack [[member, generation], ...]
-- RETURNS for each timer 1 or 0

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
local since = up_since(now)

local function is_ready(member, generation)
  local head = short_head_of(member)
  if not head or head.generation ~= generation or is_paused(application_of(member)) or is_blocked(member, head.lane) then
    return false
  end
  return head.state == SCHEDULED and head.due <= now or head.state == RUNNING and is_lost(member, now, since)
end

local answers = {}
for i, timer in ipairs(cmsgpack.unpack(ARGV[2])) do
  answers[i] = is_ready(unpack(timer)) and 1 or 0
end
return answers
