-- touch: write something after an outcome that changes nothing, so that a WAIT waits for the outcome.
-- KEYS  1 outcome
local left = redis.call('PTTL', KEYS[1])
if left > 0 then
  redis.call('PEXPIRE', KEYS[1], left)
end
return left
