-- fence (include): whether the caller still holds the shard. A token is node/boot/epoch/incarnation.
--!include incarnation
-- A lease that lapsed and that nobody took since (the epoch stands) is still the caller's.
-- returns the incarnation, or nil and the error to answer with
local function fence(lease_key, epoch_key, incarnation_key, token)
  local incarnation, same = note_incarnation(incarnation_key, lease_key)
  if same then
    local held = redis.call('GET', lease_key)
    if held == token then
      return incarnation
    end
    if not held then
      local epoch, since = string.match(token, '([^/]+)/([^/]+)$')
      if since == incarnation and redis.call('GET', epoch_key) == epoch then
        return incarnation
      end
    end
  end
  return nil, redis.error_reply('FENCED the lease of this shard is not ' .. token)
end
