-- keep_members: signs of life of sessions in rooms of one shard; tells which of them have no place there any more.
-- KEYS  per session: present, version of present, banned, kicked
-- ARGV  1 ms a sign of life counts, then per session: presence member, when it joined
-- returns per session "" stays, "ban" or "kick"
--!include clock
local now, lives = now_ms(), ARGV[1]
local answers = {}
for i = 1, #KEYS / 4 do
  local present, version, banned, kicked = unpack(KEYS, 4 * i - 3, 4 * i)
  local member, joined = ARGV[2 * i], tonumber(ARGV[2 * i + 1])
  local kicked_at = redis.call('GET', kicked)
  answers[i] = (redis.call('EXISTS', banned) == 1 and 'ban') or (kicked_at and tonumber(kicked_at) > joined and 'kick') or ''
  local changed = redis.call('ZREMRANGEBYSCORE', present, '-inf', '(' .. digits(now - lives))
  if answers[i] == '' then
    changed = changed + redis.call('ZADD', present, now, member)
    redis.call('PEXPIRE', present, 2 * lives)
  else
    changed = changed + redis.call('ZREM', present, member)
  end
  if changed > 0 then
    redis.call('INCR', version)
  end
  redis.call('PEXPIRE', version, 2 * lives)
end
return answers
