-- group_facts: how the consumer group of a shard is.
-- KEYS  1 stream
-- ARGV  1 group
-- returns {consumers, ms since the oldest pending entry was given to its consumer, or -1}; {0, -1} where there is no group
local consumers, idle = 0, -1
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1]) -- an error where there is no stream
for _, group in ipairs(groups) do
  if group[2] == ARGV[1] then
    consumers = group[4]
    local oldest = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1]
    idle = oldest and oldest[3] or -1
  end
end
return {consumers, idle}
