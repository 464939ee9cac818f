-- receipts: note how many sessions of one node each command touched. Said again, it changes nothing.
-- KEYS  a hash per command, all of one shard
-- ARGV  1 node, 2 seconds that receipts live, then per command the number of sessions
-- returns how many of them were not known before
local new = 0
for i, key in ipairs(KEYS) do
  new = new + redis.call('HSET', key, ARGV[1], ARGV[i + 2])
  redis.call('EXPIRE', key, ARGV[2])
end
return new
