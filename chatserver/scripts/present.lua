-- present: where the channels of rooms of one shard are, and who is in those where that has changed.
-- KEYS  per room: present, version of present, channel
-- ARGV  1 ms a sign of life counts, then per room the version that the caller knows
-- returns per room {epoch or false, offset or false, version, members} or the same without members
--!include clock
local since = digits(now_ms() - ARGV[1])
local answers = {}
for i = 1, #KEYS / 3 do
  local present, version = KEYS[3 * i - 2], redis.call('GET', KEYS[3 * i - 1]) or ''
  local place = redis.call('HMGET', KEYS[3 * i], 'epoch', 'offset')
  answers[i] = {place[1], place[2], version}
  if version ~= ARGV[i + 1] then
    answers[i][4] = redis.call('ZRANGEBYSCORE', present, since, '+inf')
  end
end
return answers
