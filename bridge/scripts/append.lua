-- append: put a command on its shard's stream, once per idempotency key.
-- KEYS  1 stream, 2 idempotency key, 3 asleep, 4 incarnation, 5 lease, 6 ring channel, 7 scheduled, 8 history,
--       9 publishers, 10 newer
-- ARGV  1 backlog limit, 2 seconds the key lives, 3 hash of the body, 4 random step (1 to 2^20), 5 shard,
--       6 ms until it expires ('' = never), 7 incarnation that the publisher has put everything back on ('' = it has no
--       journal), 8… fields
-- returns {'accepted', id}, {'duplicate', id}, {'mismatch', id}, {'overloaded', backlog}, {'held', ms} or
--         {'other', incarnation}; only the first wrote a command
--!include history
--!include mint
--!include ring
--!include known
local current = server_incarnation()
if ARGV[7] ~= current and ARGV[7] ~= '' then
  return {'other', current}
end
local wait, late
if redis.call('GET', KEYS[8]) ~= current then
  wait, late = enter(KEYS[8], KEYS[9], KEYS[4], KEYS[5], current, ARGV[2])
  if wait then
    return {'held', wait}
  end
end
local id, word = known(KEYS[2], ARGV[3])
if id then
  return {word, id}
end
local backlog = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[7])
if backlog >= tonumber(ARGV[1]) then
  return {'overloaded', backlog}
end
if ARGV[6] ~= '' then
  table.insert(ARGV, 'expires')
  table.insert(ARGV, digits(now_ms() + tonumber(ARGV[6])))
end
local entry = add(KEYS[1], tonumber(ARGV[4]), ARGV, 8) -- first of all writes: a full server refuses here, and nothing was written
id = ARGV[5] .. '-' .. entry
redis.call('SET', KEYS[2], id .. ' ' .. ARGV[3], 'EX', ARGV[2])
if late then
  note_newer(KEYS[10], ARGV, 8, id_ms(id), current, ARGV[2])
end
ring(KEYS[3], KEYS[6])
return {'accepted', id}
