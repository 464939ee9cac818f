-- promote: put what is due on the stream.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 scheduled, 6 bodies, 7 moved, 8 history, 9 newer
-- ARGV  1 lease token, 2 random step, 3 most entries, 4 seconds that a replay may come
-- returns {entries, ms until the next is due or -1}; error FENCED
--!include fence
--!include due
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local newer = redis.call('GET', KEYS[8]) ~= incarnation and KEYS[9] or nil
local moved = promote_due(KEYS[4], KEYS[5], KEYS[6], KEYS[7], now_ms(), tonumber(ARGV[2]), ARGV[3], newer, ARGV[4])
local following = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {moved, following and math.max(0, tonumber(following) - now_ms()) or -1}
