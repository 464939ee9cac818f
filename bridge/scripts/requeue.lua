-- requeue: put a dead letter back on the stream as a new command, once.
-- KEYS  1 dead, 2 requeued, 3 stream, 4 asleep, 5 incarnation, 6 lease, 7 ring channel, 8 scheduled
-- ARGV  1 letter's entry id, 2 its command's id, 3 shard, 4 random step, 5 backlog limit, 6… fields
-- returns {'requeued', new id}, {'already', new id}, {'gone'} or {'overloaded', backlog}
--!include incarnation
--!include mint
--!include ring
local repeated = redis.call('HGET', KEYS[2], ARGV[2])
if repeated then
  return {'already', repeated}
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return {'gone'}
end
local backlog = redis.call('XLEN', KEYS[3]) + redis.call('ZCARD', KEYS[8])
if backlog >= tonumber(ARGV[5]) then
  return {'overloaded', backlog}
end
local entry = add(KEYS[3], tonumber(ARGV[4]), ARGV, 6)
note_incarnation(KEYS[5], KEYS[6])
local id = ARGV[3] .. '-' .. entry
redis.call('HSET', KEYS[2], ARGV[2], id)
ring(KEYS[4], KEYS[7])
return {'requeued', id}
