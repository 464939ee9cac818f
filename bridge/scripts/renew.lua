-- renew: hold a shard for longer.
-- KEYS  1 lease, 2 epoch, 3 incarnation
-- ARGV  1 lease token, 2 lease in ms
-- returns 1; error FENCED
--!include fence
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 0 then -- lapsed, and nobody took it
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
