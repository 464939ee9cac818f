-- ring (include): wake the shard's holder if it noted that it sleeps. A lost ring is caught by its poll.
local function ring(asleep_key, ring_channel)
  if redis.call('DEL', asleep_key) == 1 then
    redis.call('SPUBLISH', ring_channel, '1')
  end
end
