-- heartbeat: say that a node lives, and learn who else does.
-- KEYS  1 spare, 2 live, 3 info, 4 draining
-- ARGV  1 node, 2 boot, 3 info (JSON), 4 ms after which a node counts as dead, 5 ms after which it is forgotten
-- returns {1, ms, nodes and their last heartbeats in turn, draining nodes}, or {0, boot of the live node that has the name}
--!include clock
redis.call('DEL', KEYS[1]) -- needs no memory, so that a full server takes what follows
local now = now_ms()
-- Where the server's clock was set back, who is gone would count as live for as long as it lags.
for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. digits(now), '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', KEYS[2], now, ahead)
end
local last = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 0)
local boot = string.match(redis.call('HGET', KEYS[3], ARGV[1]) or '', '^(%S+) ')
if boot and boot ~= ARGV[2] and now - last < tonumber(ARGV[4]) then
  return {0, boot}
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[5]), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('HDEL', KEYS[3], gone)
  redis.call('HDEL', KEYS[4], gone)
end
return {1, now, redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'), redis.call('HKEYS', KEYS[4])}
