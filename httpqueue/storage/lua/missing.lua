-- missing: which wake-ups are not in the queue.
-- KEYS    queue
-- ARGV    1 msgpack [wake-up id, ...]
-- RETURNS for each wake-up 1: it is missing, or 0: it is in the queue

local answers = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  answers[i] = redis.call('ZSCORE', keys.queue, id) and 0 or 1
end
return answers
