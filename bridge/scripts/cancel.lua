-- cancel: end a command that no node has read yet.
-- KEYS  1 stream, 2 settled, 3 outcome, 4 ended channel, 5 scheduled, 6 bodies, 7 moved
-- ARGV  1 group, 2 entry id ('' = still scheduled), 3 public id, 4 outcome, 5 settled's length, 6 seconds outcomes live
-- returns 1 cancelled, 0 not there any more, 2 delivered already
if ARGV[2] == '' then
  if redis.call('ZREM', KEYS[5], ARGV[3]) == 0 then
    return 0
  end
  redis.call('HDEL', KEYS[6], ARGV[3])
else
  if #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 0 then
    return 0
  end
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) -- an error: no group, so nobody read it
  if not pending.err and #pending > 0 then
    return 2
  end
  redis.call('XDEL', KEYS[1], ARGV[2])
  redis.call('HDEL', KEYS[7], ARGV[3])
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'id', ARGV[3], 'state', 'cancelled', 'outcome', ARGV[4])
redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[6])
redis.call('SPUBLISH', KEYS[4], ARGV[3])
return 1
