-- settle: apply the effects of handled entries and acknowledge them, each exactly once.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 settled, 6 starts, 7 dead, 8 requeued, 9 ended channel,
--       10… outcome keys, state keys, channels and logs of the same shard
-- ARGV  1 lease token, 2 group, 3 node, 4 settled's length, 5 seconds outcomes live, 6 most dead letters, 7 seed, 8 entries
--       then per entry: entry id, public id, attempts, state, has a starts record (1, 0), index of its outcome key,
--         outcome up to its open timeline, the rest of the outcome,
--         n writes, each: operation, index of its key, n arguments, arguments…
--         n broadcasts, each: index of its channel (the log's is next), log length, name, type, data
-- returns per entry 1 settled, 0 not pending (somebody else's), or the cause why its effects failed; error FENCED,
--         or what the server refuses writes with: what went before it in the batch is settled
--
-- XACK comes first, so that a full server still drains. Nothing is rolled back in a script, so what can be
-- checked is checked before the first write, and each entry runs under Lua's own pcall: redis.pcall does not
-- see Lua's errors, and one entry's failure must not touch its neighbours.
--!include fence
--!include clock
--!include dead_letter
--!include publish
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local group, node = ARGV[2], ARGV[3]
local now = digits(now_ms())
local expected = {HSET = 'hash', HDEL = 'hash', HINCRBY = 'hash', INCRBY = 'string', ZADD = 'zset', ZREM = 'zset', XADD = 'stream'}
local at = 9

local function take()
  at = at + 1
  return ARGV[at - 1]
end

local function take_entry()
  local entry = {id = take(), public_id = take(), attempts = take(), state = take(), counted = take(), outcome = KEYS[tonumber(take())],
    head = take(), rest = take(), writes = {}, broadcasts = {}}
  for i = 1, tonumber(take()) do
    local operation, key, n = take(), KEYS[tonumber(take())], tonumber(take())
    entry.writes[i] = {operation, key, at, at + n - 1}
    at = at + n
  end
  for i = 1, tonumber(take()) do
    local index = tonumber(take())
    entry.broadcasts[i] = {KEYS[index], KEYS[index + 1], take(), take(), take(), take()}
  end
  return entry
end

-- Additions that overflow 64 bits fail half-way; Lua counts in doubles, so the check keeps a distance.
local function adds_up(old, by)
  return not old or (string.find(old, '^%-?%d+$') and math.abs(tonumber(old)) + math.abs(tonumber(by)) < 9.2e18)
end

local function fault(entry)
  for _, write in ipairs(entry.writes) do
    local operation, key = write[1], write[2]
    if expected[operation] then
      local found = redis.call('TYPE', key).ok
      if found ~= 'none' and found ~= expected[operation] then
        return operation .. ' ' .. key .. ': it holds a ' .. found
      end
      if operation == 'HINCRBY' and not adds_up(redis.call('HGET', key, ARGV[write[3]]), ARGV[write[3] + 1]) then
        return 'HINCRBY ' .. key .. ': not an integer, or too large'
      end
      if operation == 'INCRBY' and not adds_up(redis.call('GET', key), ARGV[write[3]]) then
        return 'INCRBY ' .. key .. ': not an integer, or too large'
      end
    end
  end
end

local applied, refused

local function apply(entry)
  for _, write in ipairs(entry.writes) do
    redis.call(write[1], write[2], unpack(ARGV, write[3], write[4]))
    applied = applied + 1
  end
  for _, broadcast in ipairs(entry.broadcasts) do
    publish(broadcast[1], broadcast[2], broadcast[3], ARGV[7], broadcast[4],
      '"type":"' .. broadcast[5] .. '","at":' .. now .. ',"data":' .. broadcast[6] .. '}', incarnation)
    applied = applied + 1
  end
end

local function record(entry, state, rest)
  local outcome = entry.head .. rest
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[4], '*', 'id', entry.public_id, 'state', state, 'outcome', outcome)
  redis.call('SET', entry.outcome, outcome, 'EX', ARGV[5])
  if entry.counted == '1' then
    redis.call('HDEL', KEYS[6], entry.id, entry.id .. ':failed')
  end
end

local function bury(entry, raw, cause)
  dead_letter(KEYS[7], KEYS[8], ARGV[6], entry.public_id, 'effects_failed', cause, entry.attempts, node, now, applied, raw)
  local text = string.gsub(cause, '[%c"\\\128-\255]', '?')
  record(entry, 'dead', ',["dead",' .. now .. ',"' .. node .. '"]],"state":"dead","result":null,"error":{"code":"effects_failed","message":"'
    .. text .. '","at":' .. now .. '}}')
end

local function settle(entry)
  local cause = fault(entry)
  local raw = cause and redis.call('XRANGE', KEYS[4], entry.id, entry.id)[1]
  local acked = redis.pcall('XACK', KEYS[4], group, entry.id)
  if acked == 0 then
    return 0
  elseif acked ~= 1 then -- READONLY, NOREPLICAS, MISCONF: the server takes no writes at all
    refused = acked
    return 0
  end
  applied = 0
  if not cause then
    local ok, failure = pcall(apply, entry)
    if not ok then
      cause = (type(failure) == 'table' and failure.err or tostring(failure)) .. ' (' .. applied .. ' of '
        .. #entry.writes + #entry.broadcasts .. ' effects were applied)'
      raw = redis.call('XRANGE', KEYS[4], entry.id, entry.id)[1]
    end
  end
  redis.call('XDEL', KEYS[4], entry.id)
  if cause then
    bury(entry, raw and raw[2] or {}, cause)
    return cause
  end
  record(entry, entry.state, entry.rest)
  return 1
end

local answers, ended = {}, {}
for i = 1, tonumber(ARGV[8]) do
  local entry = take_entry()
  local ok, answer = pcall(settle, entry)
  if refused then
    return refused
  end
  answers[i] = ok and answer or ('settle: ' .. (type(answer) == 'table' and answer.err or tostring(answer)))
  ended[i] = entry.public_id
end
redis.call('SPUBLISH', KEYS[9], table.concat(ended, ' '))
return answers
