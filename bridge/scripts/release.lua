-- release: give a shard up.
-- KEYS  1 lease, 2 epoch, 3 starts
-- ARGV  1 lease token, 2… pending entries that were not started here, and the starts that they came with
-- returns 1 released, 0 it was not ours any more
-- The epoch rises, so that a renewal that was under way finds no lapsed lease of its own to take up again.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then -- a lost counter is acquire's to begin again
  redis.call('INCR', KEYS[2])
end
for i = 2, #ARGV, 2 do
  redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1])
end
return 1
