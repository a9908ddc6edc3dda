-- admit: which new wake-ups go into the queue now. `top_up` finds the others later, in the due index.
-- KEYS    due, next, filled, applications
-- ARGV    1 now   2 horizon, ms   3 window: how many wake-ups of an application the queue may hold
--         4 msgpack [[member, due ms], ...]
-- RETURNS for each wake-up 1: it goes into the queue, or 0: it does not

go_on_when_full(keys.next)
local now = now_ms(ARGV[1])
local end_ms, window = now + ARGV[2], tonumber(ARGV[3])
local applications = {}

-- {due ms, id}: wake-ups up to there go into the queue. nil: none of this application does.
local function limit_of(application)
  if is_paused(application) then
    return nil
  end
  local index = keys.due .. application
  local due, id = filled_until(application)
  if not due then -- `top_up` has not filled it yet; if they all fit, they need not wait for it
    local count = redis.call('ZCOUNT', index, '-inf', end_ms)
    return count <= window and {end_ms, '\255'} or nil
  end
  if count_until(index, due, id) > 2 * window then -- too many new timers are due before the limit: lower it
    local last = redis.call('ZRANGE', index, window - 1, window - 1, 'WITHSCORES')
    due, id = tonumber(last[2]), last[1]
    write_filled(application, due, id)
  end
  return {due, id}
end

local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[4])) do
  local member, due = unpack(item)
  local application, id = application_of(member), id_of(member)
  if applications[application] == nil then
    applications[application] = limit_of(application) or false
  end
  local limit = applications[application]
  local is_within = limit and (due < limit[1] or due == limit[1] and not is_before(limit[2], id))
  answers[i] = is_within and due <= end_ms and 1 or 0
end
return answers
