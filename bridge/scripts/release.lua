-- release: give a shard up.
-- KEYS  1 lease, 2 starts
-- ARGV  1 lease token, 2… pending entries that were never started
-- returns 1 released, 0 it was not ours any more
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
for i = 2, #ARGV do
  redis.call('HSETNX', KEYS[2], ARGV[i], 0)
end
return 1
