-- tally: compare the counts of applications, and when their first timers are due, with their indices.
-- KEYS    due, held, ended, next, running, counts
-- ARGV    1 1: write what is right; 0: change nothing   2 msgpack [application, ...]
-- RETURNS {{application whose counts are wrong, ...}, {application whose earliest due time is wrong, ...},
--          {'*'} when the number of all timers that have not ended is wrong}

local must_write, applications = ARGV[1] == '1', cmsgpack.unpack(ARGV[2])
local runs = {}
for _, member in ipairs(redis.call('ZRANGE', keys.running, 0, -1)) do
  local application = application_of(member)
  runs[application] = (runs[application] or 0) + 1
end

local function counted(application)
  local unfinished = redis.call('ZCARD', keys.due .. application) + redis.call('ZCARD', keys.held .. application)
  local running = math.min(runs[application] or 0, unfinished)
  local found = {[SCHEDULED] = unfinished - running, [RUNNING] = running}
  for _, state in ipairs({DONE, FAILED, CANCELLED}) do
    found[state] = redis.call('ZCARD', keys.ended .. state .. ':' .. application)
  end
  return found
end

local function are_counts_wrong(application)
  local is_wrong = false
  for state, count in pairs(counted(application)) do
    local field = application .. ':' .. state
    if tonumber(redis.call('HGET', keys.counts, field) or 0) ~= count then
      is_wrong = true
      if must_write then
        redis.call('HDEL', keys.counts, field)
        if count > 0 then
          redis.call('HSET', keys.counts, field, count)
        end
      end
    end
  end
  return is_wrong
end

local function is_next_wrong(application)
  local first = redis.call('ZRANGE', keys.due .. application, 0, 0, 'WITHSCORES')[2]
  local is_wrong = tonumber(first or nil) ~= tonumber(redis.call('ZSCORE', keys.next, application) or nil)
  if is_wrong and must_write then
    write_next(application)
  end
  return is_wrong
end

-- The number of all timers that have not ended: the sum of those that are scheduled or run.
local function is_total_wrong()
  local fields, total = redis.call('HGETALL', keys.counts), 0
  for i = 1, #fields, 2 do
    local state = string.match(fields[i], '^[^:]+:(%a)$')
    if state == SCHEDULED or state == RUNNING then
      total = total + (tonumber(fields[i + 1]) or 0)
    end
  end
  local is_wrong = tonumber(redis.call('HGET', keys.counts, PENDING) or 0) ~= total
  if is_wrong and must_write then
    redis.call('HDEL', keys.counts, PENDING)
    if total > 0 then
      redis.call('HSET', keys.counts, PENDING, total)
    end
  end
  return is_wrong
end

local wrong_counts, wrong_next = {}, {}
for _, application in ipairs(applications) do
  if are_counts_wrong(application) then
    wrong_counts[#wrong_counts + 1] = application
  end
  if is_next_wrong(application) then
    wrong_next[#wrong_next + 1] = application
  end
end
return {wrong_counts, wrong_next, is_total_wrong() and {'*'} or {}}
