-- release: take timers out of a line, the earliest first, and wake them: its limit or pause has changed.
-- KEYS    records, outbox, lines, next_start, starts, waiting
-- ARGV    1 'host' or 'application'   2 its name   3 limit
-- RETURNS how many were taken out

local kind, name, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function take_out(line)
  local members = redis.call('ZPOPMIN', line, limit)
  for i = 1, #members, 2 do
    wake(members[i])
  end
  return #members / 2
end

if kind == 'application' then
  return take_out(application_line(name))
end
redis.call('DEL', keys.next_start .. name)
return take_out(host_line(name)) + take_out(keys.starts .. name)
