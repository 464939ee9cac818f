-- start: count that a handler of an inherited or once failed entry is about to start.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 starts, 5 spare
-- ARGV  1 lease token, 2 entry id, 3 starts that never ended, this one included
-- The incarnation stands beside it: see claim.
-- returns 1; error FENCED
-- The number is the holder's: an increment whose answer was lost would count twice.
--!include fence
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
redis.call('DEL', KEYS[5]) -- needs no memory, so that a full server takes what follows
redis.call('HSET', KEYS[4], ARGV[2], ARGV[3] .. ' ' .. incarnation)
return 1
