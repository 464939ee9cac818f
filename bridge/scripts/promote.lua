-- promote: put what is due on the stream. It keeps its public id, which `moved` leads to the new entry.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 scheduled, 6 bodies, 7 moved
-- ARGV  1 lease token, 2 random step, 3 most entries
-- returns {entries, ms until the next is due or -1}; error FENCED
--!include fence
--!include mint
--!include netstrings
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local due = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', digits(now_ms()), 'LIMIT', 0, ARGV[3])
for _, id in ipairs(due) do
  local body = redis.call('HGET', KEYS[6], id)
  if body then
    -- Added before it leaves the schedule.
    redis.call('HSET', KEYS[7], id, add(KEYS[4], tonumber(ARGV[2]), read_netstrings(body)))
  end
  redis.call('ZREM', KEYS[5], id)
  redis.call('HDEL', KEYS[6], id)
end
local following = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {#due, following and math.max(0, tonumber(following) - now_ms()) or -1}
