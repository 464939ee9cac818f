-- say: one message to a room, if nothing speaks against it at this moment.
-- KEYS  1 settings, 2 banned, 3 muted, 4 said, 5 nonce, 6 channel, 7 log
-- ARGV  1 when the user's own sanctions were read, 2 what they say: "", banned, muted or shadow; 3 log length, 4 seed,
--       5 channel's name, 6 data (JSON), 7 has a nonce (1, 0), 8 seconds that answers are kept, 9 most ms since 1
-- returns {"ok", message id, offset, ts, "published", "shadow" or "repeated"} or {code, sanction record or false, ms to wait or false}
--
-- A say that was under way while its node was paused dies of the deadline, so that a sanction reported
-- done is never slipped past. A shadow-muted user gets what everybody gets, and nothing is published.
--!include clock
--!include publish
local now = now_ms()
if math.abs(now - tonumber(ARGV[1])) > tonumber(ARGV[9]) then
  return {'late', false, false}
end
if ARGV[7] == '1' then
  local known = redis.call('GET', KEYS[5])
  if known then
    local id, offset, ts = string.match(known, '^(%S+) (%S+) (%S+)$')
    return {'ok', id, offset, ts, 'repeated'}
  end
end

local settings = redis.call('HMGET', KEYS[1], 'state', 'slow_mode_s')
local state, slow_ms = settings[1], tonumber(settings[2] or 0) * 1000
if not state then
  return {'room_not_found', false, false}
end
if state == 'closed' then
  return {'room_closed', false, false}
end
local banned, muted = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])
if ARGV[2] == 'banned' or banned then
  return {'banned', banned, false}
end
if ARGV[2] == 'muted' or muted then
  return {'muted', muted, false}
end
if state == 'frozen' then
  return {'room_frozen', false, false}
end
local said = slow_ms > 0 and redis.call('GET', KEYS[4])
if said and tonumber(said) + slow_ms > now then
  return {'slow_mode', false, digits(tonumber(said) + slow_ms - now)}
end

local ts = digits(now)
local epoch, offset, number
if ARGV[2] == 'shadow' then
  local place = redis.call('HMGET', KEYS[6], 'epoch', 'offset')
  epoch, offset = place[1] or ARGV[4], tonumber(place[2] or 0)
  number = offset + 1000 + tonumber(string.sub(ARGV[4], 1, 4), 16) -- no message of the log has it now or soon
else
  epoch, offset = publish(KEYS[6], KEYS[7], ARGV[3], ARGV[4], ARGV[5],
    '"type":"message","at":' .. ts .. ',"data":' .. ARGV[6] .. '}')
end
local id = digits(number or offset) .. '-' .. string.sub(epoch, 1, 8)
offset = digits(offset)
if slow_ms > 0 then
  redis.call('SET', KEYS[4], ts, 'PX', slow_ms)
end
if ARGV[7] == '1' then
  redis.call('SET', KEYS[5], id .. ' ' .. offset .. ' ' .. ts, 'EX', ARGV[8])
end
return {'ok', id, offset, ts, ARGV[2] == 'shadow' and 'shadow' or 'published'}
