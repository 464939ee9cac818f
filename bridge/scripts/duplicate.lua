-- duplicate: keep an idempotency key alive, or let go of one whose command is gone (keys outlive a stream that was deleted).
-- KEYS  1 idempotency key, 2 its command's outcome, 3 stream, 4 scheduled, 5 moved, 6 requeued
-- ARGV  1 its command's id, 2 seconds keys and outcomes live
-- returns 1 the command is there, 0 it is not, and the key is free
-- The outcome lives as long as the key, or the key would be taken for one whose command is gone.
--!include trace
if trace(ARGV[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) then
  for i = 1, 2 do -- writes of its own, so that a WAIT after it waits for something
    local left = redis.call('TTL', KEYS[i])
    if left >= 0 then
      redis.call('EXPIRE', KEYS[i], math.max(left, tonumber(ARGV[2])))
    end
  end
  return 1
end
local value = redis.call('GET', KEYS[1])
if value and string.match(value, '^%S+') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
