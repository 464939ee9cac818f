-- read_state: one key's value, whatever its type; of a stream the last thousand entries, newest first.
-- KEYS  1 key
-- returns {type, value}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' then
  return {kind, redis.call('GET', KEYS[1])}
elseif kind == 'hash' then
  return {kind, redis.call('HGETALL', KEYS[1])}
elseif kind == 'zset' then
  return {kind, redis.call('ZRANGE', KEYS[1], 0, -1)}
elseif kind == 'set' then
  return {kind, redis.call('SMEMBERS', KEYS[1])}
elseif kind == 'list' then
  return {kind, redis.call('LRANGE', KEYS[1], 0, -1)}
elseif kind == 'stream' then
  return {kind, redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1000)}
end
return {kind, false}
