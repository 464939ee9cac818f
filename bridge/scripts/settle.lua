-- settle: apply the effects of handled entries and acknowledge them, each exactly once.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 settled, 6 starts, 7 dead, 8 requeued, 9 ended channel, 10 spare, 11 moved,
--       then per entry: its outcome's key, a key each write, a channel and its log each broadcast; all of one shard
-- ARGV  1 lease token, 2 group, 3 node, 4 settled's length, 5 seconds outcomes live, 6 most dead letters, 7 seed, 8 entries
--       then per entry: entry id, public id, attempts, state, has a starts record (1, 0),
--         length of its outcome up to the open timeline, the whole outcome,
--         n writes, each: operation, n arguments, arguments…
--         n broadcasts, each: log length, name, type, data
-- returns per entry 1 settled, 0 not pending (somebody else's), or the cause why its effects failed; after them, if
--         any, how many older dead letters made room; error FENCED
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
local call = redis.call
local group, node = ARGV[2], ARGV[3]
local now = digits(now_ms())
local expected = {HSET = 'hash', HDEL = 'hash', ZADD = 'zset', ZREM = 'zset', XADD = 'stream'}

-- The entry at hand. Its tables are used again for the next: making new ones cost a tenth of the script's time.
local id, public_id, attempts, state, counted, head, outcome, outcome_key
local writes, broadcasts = {n = 0}, {n = 0} -- where each begins in ARGV
local write_keys, channels, logs = {}, {}, {}
local at, key = 9, 12 -- what of ARGV and KEYS comes next

local function take_entry()
  id, public_id, attempts, state, counted, head, outcome, writes.n = unpack(ARGV, at, at + 7)
  outcome_key = KEYS[key]
  at, key = at + 8, key + 1
  for i = 1, writes.n do
    writes[i], write_keys[i] = at, KEYS[key]
    at, key = at + 2 + ARGV[at + 1], key + 1
  end
  broadcasts.n = ARGV[at]
  at = at + 1
  for i = 1, broadcasts.n do
    broadcasts[i], channels[i], logs[i] = at, KEYS[key], KEYS[key + 1]
    at, key = at + 4, key + 2
  end
end

-- Additions that overflow 64 bits fail half-way; Lua counts in doubles, so the check keeps a distance.
local function adds_up(old, by)
  return not old or (type(old) == 'string' and (old == '0' or string.find(old, '^%-?[1-9]%d*$')) and math.abs(tonumber(old)) + math.abs(tonumber(by)) < 9.2e18)
end

local function fault()
  for i = 1, writes.n do
    local operation, first, target = ARGV[writes[i]], writes[i] + 2, write_keys[i]
    if operation == 'HINCRBY' then
      if not adds_up(redis.pcall('HGET', target, ARGV[first]), ARGV[first + 1]) then
        return 'HINCRBY ' .. target .. ': not an integer of a hash, or too large'
      end
    elseif operation == 'INCRBY' then
      if not adds_up(redis.pcall('GET', target), ARGV[first]) then
        return 'INCRBY ' .. target .. ': not an integer, or too large'
      end
    elseif expected[operation] then
      local found = call('TYPE', target).ok
      if found ~= 'none' and found ~= expected[operation] then
        return operation .. ' ' .. target .. ': it holds a ' .. found
      end
    end
  end
end

local applied

local function apply()
  for i = 1, writes.n do
    local first = writes[i]
    call(ARGV[first], write_keys[i], unpack(ARGV, first + 2, first + 1 + ARGV[first + 1]))
    applied = applied + 1
  end
  for i = 1, broadcasts.n do
    local length, name, kind, data = unpack(ARGV, broadcasts[i], broadcasts[i] + 3)
    publish(channels[i], logs[i], length, ARGV[7], name, '"type":"' .. kind .. '","at":' .. now .. ',"data":' .. data .. '}', incarnation)
    applied = applied + 1
  end
end

local function record()
  call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[4], '*', 'id', public_id, 'state', state, 'outcome', outcome)
  call('SET', outcome_key, outcome, 'EX', ARGV[5])
  if counted == '1' then
    call('HDEL', KEYS[6], id, id .. ':failed')
  end
  if string.sub(public_id, -#id) ~= id then -- it was scheduled, and written again when it was due
    call('HDEL', KEYS[11], public_id)
  end
end

local dropped = 0 -- older dead letters that made room

local function bury(cause)
  local raw = call('XRANGE', KEYS[4], id, id)[1]
  dropped = dropped + dead_letter(KEYS[7], KEYS[8], ARGV[6], public_id, 'effects_failed', cause, attempts, node, now, applied, raw and raw[2] or {})
  local text = string.gsub(cause, '[%c"\\\128-\255]', '?')
  state = 'dead'
  outcome = string.sub(outcome, 1, head) .. ',["dead",' .. now .. ',"' .. node
    .. '"]],"state":"dead","result":null,"error":{"code":"effects_failed","message":"' .. text .. '","at":' .. now .. '}}'
  record()
end

-- The first write stands outside of any pcall: a server that takes no writes now (NOREPLICAS, READONLY, MISCONF)
-- refuses the whole script here, before an entry could be taken for one whose effects failed.
call('DEL', KEYS[10])
local acknowledged, answers, ended = {}, {}, {}

local function settle()
  local cause = fault()
  if call('XACK', KEYS[4], group, id) == 0 then
    return 0
  end
  acknowledged[#acknowledged + 1] = id
  applied = 0
  if not cause then
    local ok, failure = pcall(apply)
    if ok then
      record()
      return 1
    end
    cause = (type(failure) == 'table' and failure.err or tostring(failure)) .. ' (' .. applied .. ' of '
      .. writes.n + broadcasts.n .. ' effects were applied)'
  end
  bury(cause)
  return cause
end

for i = 1, tonumber(ARGV[8]) do
  take_entry()
  local ok, answer = pcall(settle)
  answers[i] = ok and answer or ('settle: ' .. (type(answer) == 'table' and answer.err or tostring(answer)))
  ended[i] = public_id
end
if acknowledged[1] then
  call('XDEL', KEYS[4], unpack(acknowledged))
end
call('SPUBLISH', KEYS[9], table.concat(ended, ' '))
if dropped > 0 then
  table.insert(answers, dropped)
end
return answers
