-- leave: strike a node that ends in good order off the list.
-- KEYS  1 live, 2 info, 3 draining
-- ARGV  1 node, 2 boot
-- returns 1 struck, 0 the name belongs to another boot
if string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%S+) ') ~= ARGV[2] then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[3], ARGV[1]) == 'leaving' then -- an operator's order to drain outlives a restart
  redis.call('HDEL', KEYS[3], ARGV[1])
end
return 1
