-- discard: delete a dead letter for good.
-- KEYS  1 dead, 2 requeued
-- ARGV  1 letter's entry id, 2 its command's id
-- returns 1 discarded, 0 it was gone
redis.call('HDEL', KEYS[2], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[1])
