-- host_probe: put expired permits back into the host's line, and tell which wake-ups of it to wake.
-- KEYS    rules, line, permits, pace, served
-- ARGV    1 now   2 how long nobody has served the line, at least, ms   3 the most wake-ups to tell
--         4 1: write these rules   5 rules as JSON; '': none
-- RETURNS {now ms, 1 when there is a line or a permit, or 0; {member, ...} to wake}
-- To wake are the first of the line, as many as could start.

go_on_when_full(keys.permits)
local now, silence, limit = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function write_rules(text)
  if (redis.call('GET', keys.rules) or '') == text then
    return
  end
  if text == '' then
    redis.call('DEL', keys.rules)
  else
    redis.call('SET', keys.rules, text)
  end
  note_pace('since', now) -- there is nothing to catch up with after a pause or under another rate
end

if ARGV[4] == '1' then
  write_rules(ARGV[5])
end
return_expired(now)
local rules = read_rules()
local served = tonumber(redis.call('GET', keys.served) or 0)
local could_start = math.max(served, next_start(rules, now, 0))
if rules.paused or silence > 0 and could_start + silence > now then
  limit = 0
end
limit = math.min(limit, free_permits(rules), rules.rate and 1 or math.huge)
local first = limit > 0 and redis.call('ZRANGE', keys.line, 0, limit - 1) or {}
return {now, redis.call('EXISTS', keys.line, keys.permits) > 0 and 1 or 0, first}
