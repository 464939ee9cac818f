-- held: how long new commands wait for publishers that put back what this server may have lost.
-- KEYS  1 spare, 2 history, 3 publishers, 4 incarnation, 5 lease
-- ARGV  1 seconds that a replay may come
-- returns ms, 0 = everybody awaited has put back everything
--!include history
local current = server_incarnation()
if redis.call('GET', KEYS[2]) == current then
  return 0
end
redis.call('DEL', KEYS[1]) -- a full server answers as well
return enter(KEYS[2], KEYS[3], KEYS[4], KEYS[5], current, ARGV[1]) or 0
