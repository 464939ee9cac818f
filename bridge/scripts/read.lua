-- read: deliver new commands of a shard to its holder, without blocking (a blocking read cannot be fenced).
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 asleep, 6 scheduled
-- ARGV  1 lease token, 2 group, 3 consumer, 4 count
-- returns {seconds, microseconds, entries, ms until a scheduled command is due or -1}; error FENCED, NOGROUP
--!include fence
--!include clock
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local time = redis.call('TIME')
local streams = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[4], '>')
local entries = streams and streams[1][2] or {}
if #entries < tonumber(ARGV[4]) then
  redis.call('SET', KEYS[5], '1', 'EX', 60) -- nothing is left: the next append rings
end
local following = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
return {time[1], time[2], entries, following and math.max(0, tonumber(following) - now_ms()) or -1}
