-- trace (include): whether the server knows of a command: scheduled, on the stream, ended, dead or sent again.
-- returns whether it does, and its entry on the stream where it is there
local function trace(id, outcome_key, stream, scheduled_key, moved_key, requeued_key)
  local entry = redis.call('HGET', moved_key, id) or string.match(id, '^%d+%-(.+)$')
  if #redis.call('XRANGE', stream, entry, entry) == 1 then
    return true, entry
  end
  return redis.call('EXISTS', outcome_key) == 1 or redis.call('ZSCORE', scheduled_key, id) ~= false
    or redis.call('HEXISTS', requeued_key, id) == 1
end
