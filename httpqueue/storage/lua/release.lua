-- release: take timers out of a line, the earliest first, and wake them: a limit or pause has changed.
-- KEYS    records, due, held, next, outbox, counts, filled, lines, next_start, starts, waiting
-- ARGV    1 'host' or 'application'   2 its name   3 limit
-- RETURNS how many timers were taken out
-- An application's due index is put into the queue again from its beginning. A host's reserved starts are
-- dropped.

go_on_when_full(keys.waiting)
local kind, name, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function take_out(line)
  local members = redis.call('ZPOPMIN', line, limit)
  for i = 1, #members, 2 do
    wake(members[i])
  end
  return #members / 2
end

local released
if kind == 'application' then
  redis.call('HDEL', keys.filled, name)
  released = take_out(keys.lines .. 'application:' .. name)
else
  redis.call('DEL', keys.next_start .. name)
  released = take_out(keys.lines .. 'host:' .. name) + take_out(keys.starts .. name)
end
write_changes()
return released
