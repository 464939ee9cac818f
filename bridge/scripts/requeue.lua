-- requeue: put a dead letter back on the stream as a new command, once.
-- KEYS  1 dead, 2 requeued, 3 stream, 4 asleep, 5 incarnation, 6 lease, 7 ring channel, 8 scheduled, 9 history,
--       10 publishers, 11 newer
-- ARGV  1 letter's entry id, 2 its command's id, 3 shard, 4 random step, 5 backlog limit, 6 seconds keys live,
--       7 incarnation that the publisher has put everything back on ('' = it has no journal), 8… fields
-- returns {'requeued', new id}, {'already', new id, its fields while it is on the stream}, {'gone'},
--         {'overloaded', backlog}, {'held', ms} or {'other', incarnation}
--!include history
--!include mint
--!include ring
local current = server_incarnation()
if ARGV[7] ~= current and ARGV[7] ~= '' then
  return {'other', current}
end
local wait, late
if redis.call('GET', KEYS[9]) ~= current then
  wait, late = enter(KEYS[9], KEYS[10], KEYS[5], KEYS[6], current, ARGV[6])
  if wait then
    return {'held', wait}
  end
end
local repeated = redis.call('HGET', KEYS[2], ARGV[2])
if repeated then
  redis.call('HSET', KEYS[2], ARGV[2], repeated) -- a write of its own, so that a WAIT after it waits for something
  local entry = string.match(repeated, '^%d+%-(.+)$')
  local found = redis.call('XRANGE', KEYS[3], entry, entry)[1]
  return {'already', repeated, found and found[2] or {}}
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return {'gone'}
end
local backlog = redis.call('XLEN', KEYS[3]) + redis.call('ZCARD', KEYS[8])
if backlog >= tonumber(ARGV[5]) then
  return {'overloaded', backlog}
end
local id = ARGV[3] .. '-' .. add(KEYS[3], tonumber(ARGV[4]), ARGV, 8)
redis.call('HSET', KEYS[2], ARGV[2], id)
if late then
  note_newer(KEYS[11], ARGV, 8, id_ms(id), current, ARGV[6])
end
ring(KEYS[4], KEYS[7])
return {'requeued', id}
