-- bury: end a pending entry as a dead letter, with its cause and its bytes as they came.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 settled, 6 starts, 7 dead, 8 requeued, 9 ended channel,
--       10 spare, 11 moved, 12 outcome
-- ARGV  1 lease token, 2 group, 3 node, 4 settled's length, 5 seconds outcomes live, 6 most dead letters,
--       7 entry id, 8 public id, 9 code, 10 message, 11 attempts, 12 outcome
-- returns {1 buried or 0 not pending, older letters that made room}; error FENCED
--!include fence
--!include clock
--!include dead_letter
local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local entry = redis.call('XRANGE', KEYS[4], ARGV[7], ARGV[7])[1]
if redis.call('XACK', KEYS[4], ARGV[2], ARGV[7]) == 0 then
  return {0, 0}
end
local dropped = dead_letter(KEYS[7], KEYS[8], ARGV[6], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[3], digits(now_ms()), 0,
  entry and entry[2] or {})
redis.call('XDEL', KEYS[4], ARGV[7])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[4], '*', 'id', ARGV[8], 'state', 'dead', 'outcome', ARGV[12])
redis.call('SET', KEYS[12], ARGV[12], 'EX', ARGV[5])
redis.call('HDEL', KEYS[6], ARGV[7], ARGV[7] .. ':failed')
redis.call('HDEL', KEYS[11], ARGV[8])
redis.call('SPUBLISH', KEYS[9], ARGV[8])
return {1, dropped}
