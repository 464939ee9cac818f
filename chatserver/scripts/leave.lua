-- leave: a session is not in a room any more.
-- KEYS  1 present, 2 version of present
-- ARGV  1 presence member, 2 ms a sign of life counts
-- returns 1 if it was there, else 0
local removed = redis.call('ZREM', KEYS[1], ARGV[1])
if removed == 1 then
  redis.call('INCR', KEYS[2])
  redis.call('PEXPIRE', KEYS[2], 2 * ARGV[2])
end
return removed
