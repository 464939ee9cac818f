-- discard: delete a dead letter for good.
-- KEYS  1 dead, 2 requeued
-- ARGV  1 letter's entry id, 2 its command's id, 3 incarnation that the publisher has put everything back on ('' = it
--       has no journal)
-- returns 1 discarded, 0 it was gone, or {'other', incarnation}
--!include incarnation
local current = server_incarnation()
if ARGV[3] ~= current and ARGV[3] ~= '' then
  return {'other', current}
end
local gone = redis.call('XDEL', KEYS[1], ARGV[1])
if gone == 1 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return gone
