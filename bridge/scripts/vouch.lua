-- vouch: a publisher with a journal is there, and says on which incarnation it has put everything back.
-- KEYS  1 spare, 2 publishers
-- ARGV  1 publisher, 2 incarnation ('*' = this one, there is nothing to put back; '-' = none yet; '' = it leaves for good),
--       3 seconds until the silent are forgotten, 4 ms that it counts as silent for already
-- returns this server's incarnation
--!include history
local current = server_incarnation()
redis.call('DEL', KEYS[1]) -- or a full server would never be told, and nothing put back there
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  local now = now_ms()
  note_sign(KEYS[2], current, now)
  local silent_since = ARGV[4] ~= '0' and math.min(now, last_sign(KEYS[2], current) or now) - ARGV[4]
  redis.call('HSET', KEYS[2], ARGV[1], digits(silent_since or now) .. ' ' .. (ARGV[2] == '*' and current or ARGV[2]))
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  forget_silent(KEYS[2], now, ARGV[3] * 1000)
end
return current
