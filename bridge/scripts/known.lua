-- known (include): whether an idempotency key was used before, by the same caller on the same subject.
-- returns the earlier command's id and 'duplicate', or 'mismatch' where its body was another one; nil if it is new
-- Whether that command is still there, `duplicate` finds out, whose caller knows the id by then.
local function known(key, body)
  local value = redis.call('GET', key)
  if not value then
    return nil
  end
  local id, earlier = string.match(value, '^(%S+) (%S+)$')
  if earlier ~= body then
    return id, 'mismatch'
  end
  return id, 'duplicate'
end
