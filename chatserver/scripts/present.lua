-- present: who is in rooms of one shard, where that has changed.
-- KEYS  per room: present, version of present
-- ARGV  1 ms a sign of life counts, then per room the version that the caller knows
-- returns per room {version, members} or {version}
--!include clock
local since = digits(now_ms() - ARGV[1])
local answers = {}
for i = 1, #KEYS / 2 do
  local present, version = KEYS[2 * i - 1], redis.call('GET', KEYS[2 * i]) or ''
  answers[i] = {version}
  if version ~= ARGV[i + 1] then
    answers[i][2] = redis.call('ZRANGEBYSCORE', present, since, '+inf')
  end
end
return answers
