-- schedule: keep a command until it is due, once per idempotency key.
-- KEYS  1 stream, 2 idempotency key, 3 scheduled, 4 bodies, 5 incarnation, 6 lease, 7 ring channel, 8 history, 9 publishers
-- ARGV  1 backlog limit, 2 seconds the key lives after the command is due, 3 hash of the body, 4 random step, 5 shard,
--       6 ms after it is due until it expires ('' = never), 7 incarnation that the publisher has put everything back on
--       ('' = it has no journal), 8 due (ms), 9… fields
-- returns {'accepted', id}, {'duplicate', id}, {'mismatch', id}, {'overloaded', backlog}, {'held', ms} or
--         {'other', incarnation}; only the first wrote a command
--!include history
--!include due
--!include known
local current = server_incarnation()
if ARGV[7] ~= current and ARGV[7] ~= '' then
  return {'other', current}
end
if redis.call('GET', KEYS[8]) ~= current then
  local wait = enter(KEYS[8], KEYS[9], KEYS[5], KEYS[6], current, ARGV[2])
  if wait then
    return {'held', wait}
  end
end
local id, word = known(KEYS[2], ARGV[3])
if id then
  return {word, id}
end
local backlog = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[3])
if backlog >= tonumber(ARGV[1]) then
  return {'overloaded', backlog}
end
id = ARGV[5] .. '-' .. mint(ARGV[4])
local fields = {unpack(ARGV, 9)}
for _, field in ipairs({'id', id, 'due', ARGV[8]}) do
  table.insert(fields, field)
end
if ARGV[6] ~= '' then
  table.insert(fields, 'expires')
  table.insert(fields, digits(tonumber(ARGV[8]) + tonumber(ARGV[6])))
end
redis.call('HSET', KEYS[4], id, netstrings(fields)) -- first of all writes: a full server refuses here
redis.call('ZADD', KEYS[3], ARGV[8], id)
redis.call('SET', KEYS[2], id .. ' ' .. ARGV[3], 'EX', seconds_from(ARGV[8], ARGV[2]))
redis.call('SPUBLISH', KEYS[7], 'scheduled') -- it may be due before what the holder waits for
return {'accepted', id}
