-- publish (include): give a publication the next offset of its channel, keep it in the capped log, and send it.
--!include incarnation
-- The epoch is new whenever the server is another one, because the last publications may be lost and
-- their offsets used again; the log stays, it is what this server has. Where the channel's own record
-- is gone, offsets begin again and an old log would contradict them.
-- seed: 16 random hex digits from the caller (math.random repeats after a restart)
-- tail: the message's text after its offset: "type":…,"at":…,"data":…}
-- returns epoch, offset
local function publish(channel_key, log_key, maxlen, seed, name, tail, incarnation)
  incarnation = string.sub(incarnation or server_incarnation(), 1, 8)
  local epoch = redis.call('HGET', channel_key, 'epoch')
  if not epoch then
    redis.call('DEL', log_key)
  end
  if not epoch or string.sub(epoch, -8) ~= incarnation then
    epoch = seed .. incarnation
    redis.call('HSET', channel_key, 'epoch', epoch)
  end
  local offset = redis.call('HINCRBY', channel_key, 'offset', 1)
  local message = '{"channel":"' .. name .. '","epoch":"' .. epoch .. '","offset":' .. offset .. ',' .. tail
  redis.call('XADD', log_key, 'MAXLEN', '~', maxlen, offset .. '-0', 'p', message)
  redis.call('SPUBLISH', channel_key, message)
  return epoch, offset
end
