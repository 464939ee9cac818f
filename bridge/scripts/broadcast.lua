-- broadcast: publish on a channel.
-- KEYS  1 channel, 2 log
-- ARGV  1 log length, 2 seed, 3 channel's name, 4 type, 5 data (JSON)
-- returns {epoch, offset}
--!include clock
--!include publish
local epoch, offset = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3],
  '"type":"' .. ARGV[4] .. '","at":' .. digits(now_ms()) .. ',"data":' .. ARGV[5] .. '}')
return {epoch, offset}
