-- group_facts: how the consumer group of a shard is.
-- KEYS  1 stream
-- ARGV  1 group
-- returns {ms, consumers, first pending id or ''}; {ms, 0, ''} where there is no group
--!include clock
local now, consumers, oldest = now_ms(), 0, ''
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1]) -- an error where there is no stream
for _, group in ipairs(groups) do
  if group[2] == ARGV[1] then
    consumers = group[4]
    oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2] or ''
  end
end
return {digits(now), consumers, oldest}
