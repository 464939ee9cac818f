-- join: let a session into a room, and read the room's state at the offset it has now.
-- KEYS  1 settings, 2 banned, 3 muted, 4 channel, 5 log, 6 deleted, 7 present, 8 version of present
-- ARGV  1 presence member, 2 epoch and 3 offset that the client has ("" = none), 4 publications for a newcomer,
--       5 ms a sign of life counts, 6 most sessions that are listed
-- returns {code, now, banned record or false}, or
--   {"ok", now, settings, muted record or false, epoch, offset, recovered (1, 0), publications, deleted or false, present or only their number}
--
-- A client's place is known if its epoch is the channel's, or if the log still holds that very publication:
-- the epoch changes with each life of the server, the log goes on where nothing was lost.
--!include clock
local now = now_ms()
local settings = redis.call('HGETALL', KEYS[1])
if #settings == 0 then
  return {'room_not_found', digits(now), false}
end
if redis.call('HGET', KEYS[1], 'state') == 'closed' then
  return {'room_closed', digits(now), false}
end
local banned = redis.call('GET', KEYS[2])
if banned then
  return {'banned', digits(now), banned}
end

local place = redis.call('HMGET', KEYS[4], 'epoch', 'offset')
local epoch, offset = place[1] or '', place[2] or '0'

local function is_known()
  if ARGV[2] == '' or tonumber(ARGV[3]) > tonumber(offset) then
    return false
  end
  if ARGV[2] == epoch then
    return true
  end
  local last = redis.call('XRANGE', KEYS[5], ARGV[3] .. '-0', ARGV[3] .. '-0')[1]
  return last and string.find(last[2][2], '"epoch":"' .. ARGV[2] .. '"', 1, true)
end

local function publications_since()
  if not is_known() then
    return nil
  end
  local entries = redis.call('XRANGE', KEYS[5], '(' .. ARGV[3] .. '-0', '+')
  if #entries == tonumber(offset) - tonumber(ARGV[3]) then
    return entries
  end
end

local entries, recovered = publications_since(), 1
if not entries then
  local newest = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', ARGV[4])
  entries, recovered = {}, 0
  for i = #newest, 1, -1 do
    entries[#entries + 1] = newest[i]
  end
end
local publications = {}
for i, entry in ipairs(entries) do
  publications[i] = entry[2][2]
end

redis.call('ZADD', KEYS[7], now, ARGV[1])
redis.call('INCR', KEYS[8])
redis.call('PEXPIRE', KEYS[7], 2 * ARGV[5])
redis.call('PEXPIRE', KEYS[8], 2 * ARGV[5])
local present = redis.call('ZCOUNT', KEYS[7], now - ARGV[5], '+inf')
if present <= tonumber(ARGV[6]) then
  present = redis.call('ZRANGEBYSCORE', KEYS[7], now - ARGV[5], '+inf')
end
return {'ok', digits(now), settings, redis.call('GET', KEYS[3]), epoch, offset, recovered, publications,
  redis.call('GET', KEYS[6]), present}
