-- known (include): whether an idempotency key was used before, by the same caller on the same subject.
-- returns the earlier command's id and 'duplicate', or 'mismatch' where its body was another one; nil if it is new
local function known(key, body, seconds)
  local value = redis.call('GET', key)
  if not value then
    return nil
  end
  local id, earlier = string.match(value, '^(%S+) (%S+)$')
  if earlier ~= body then
    return id, 'mismatch'
  end
  redis.call('EXPIRE', key, math.max(redis.call('TTL', key), tonumber(seconds))) -- a write of its own, so that a WAIT after it waits for something
  return id, 'duplicate'
end
