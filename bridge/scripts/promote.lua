-- promote: put what is due on the stream.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 scheduled, 6 bodies, 7 moved, 8 history, 9 newer, 10 publishers
-- ARGV  1 lease token, 2 random step, 3 most entries, 4 seconds that a replay may come
-- returns {entries, ms until it is worth another look or -1}; error FENCED
--!include fence
--!include due
--!include history
local AGAIN_MS = 100
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local newer
if redis.call('GET', KEYS[8]) ~= incarnation and redis.call('ZCOUNT', KEYS[5], '-inf', now_ms()) > 0 then
  -- As new commands do, these wait for publishers that put back what was accepted before: it goes first.
  local wait, any = enter(KEYS[8], KEYS[10], KEYS[3], KEYS[1], incarnation, ARGV[4])
  if wait then
    return {0, math.min(wait, AGAIN_MS)}
  end
  newer = any and KEYS[9]
end
local moved = promote_due(KEYS[4], KEYS[5], KEYS[6], KEYS[7], now_ms(), tonumber(ARGV[2]), ARGV[3], newer, ARGV[4])
local following = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {moved, following and math.max(0, tonumber(following) - now_ms()) or -1}
