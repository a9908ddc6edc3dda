-- missing: which wake-ups are not in the queue.
-- KEYS    queue
-- ARGV    1 msgpack [wake-up id, ...]
-- RETURNS 1 a wake-up that is not there, 0 one that is

local answers = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  answers[i] = redis.call('ZSCORE', keys.queue, id) and 0 or 1
end
return answers
