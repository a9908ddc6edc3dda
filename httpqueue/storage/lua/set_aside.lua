-- set_aside: take timers whose spec nobody can read out of the indices. Their records stay for inspection.
-- KEYS    records, due, held, next, running, set_aside, outbox, counts, lanes, probes, ending
-- ARGV    1 now   2 msgpack [member, ...]

go_on_when_full(keys.running)
local now = now_ms(ARGV[1])
for _, member in ipairs(cmsgpack.unpack(ARGV[2])) do
  set_aside(member, short_head_of(member), now)
end
write_changes()
