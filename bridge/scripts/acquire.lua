-- acquire: take a shard whose lease is free, or one's own again under a new epoch, and make its group if it lacks.
-- The lease of a holder that vanished is taken as well, if it is still the one named and was not renewed since.
-- KEYS  1 spare, 2 lease, 3 epoch, 4 incarnation, 5 stream
-- ARGV  1 node/boot, 2 group, 3 lease in ms, 4 token of a holder that vanished or '', 5 ms since when it has been silent
-- returns {epoch, token, 0}, or {0, holder's token, ms that its lease still runs}
-- The group begins at 0, never at $: what is on the stream is not settled.
--!include incarnation
--!include clock
redis.call('DEL', KEYS[1]) -- needs no memory, so that a full server takes what follows
local incarnation = note_incarnation(KEYS[4], KEYS[2])
local held = redis.call('GET', KEYS[2])
if held and string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. '/' then
  local left = redis.call('PTTL', KEYS[2])
  if held ~= ARGV[4] or ARGV[3] - left < tonumber(ARGV[5]) then
    return {0, held, left}
  end
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('SET', KEYS[3], digits(now_ms())) -- a lost counter starts above all it ever gave
end
local epoch = redis.call('INCR', KEYS[3])
local token = ARGV[1] .. '/' .. digits(epoch) .. '/' .. incarnation
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
redis.pcall('XGROUP', 'CREATE', KEYS[5], ARGV[2], '0', 'MKSTREAM') -- BUSYGROUP: it is there
return {epoch, token, 0}
