-- dead_letter (include): keep an entry that cannot be handled, as it came.
--!include netstrings
-- returns how many older letters made room (0 or 1)
local function dead_letter(dead_key, requeued_key, maxlen, id, code, message, attempts, node, at, applied, flat)
  local dropped = 0
  if redis.call('XLEN', dead_key) >= tonumber(maxlen) then
    local oldest = redis.call('XRANGE', dead_key, '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', dead_key, oldest[1])
    redis.call('HDEL', requeued_key, oldest[2][2])
    dropped = 1
  end
  redis.call('XADD', dead_key, '*', 'id', id, 'code', code, 'message', message, 'attempts', attempts,
    'node', node, 'at', at, 'applied', applied, 'raw', netstrings(flat))
  return dropped
end
