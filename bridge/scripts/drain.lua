-- drain: put a node that ends in good order on the draining list, so that others take its shards.
-- KEYS  1 info, 2 draining
-- ARGV  1 node, 2 boot
-- returns 1 it is on the list, 0 the name belongs to another boot
if string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) ') ~= ARGV[2] then
  return 0
end
redis.call('HSETNX', KEYS[2], ARGV[1], 'leaving') -- an operator's order stays as it is
return 1
