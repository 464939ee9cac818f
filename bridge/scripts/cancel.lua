-- cancel: end a command that no node has read yet.
-- KEYS  1 stream, 2 settled, 3 outcome, 4 ended channel, 5 scheduled, 6 bodies, 7 moved, 8 requeued
-- ARGV  1 group, 2 public id, 3 outcome, 4 settled's length, 5 seconds outcomes live, 6 incarnation that the publisher has
--       put everything back on ('' = it has no journal)
-- returns {1 cancelled, 0 not there any more, 2 delivered already, the outcome that it has or ''}, or {'other', incarnation}
-- The outcome of a scheduled one lives on after its time, as its idempotency key does: a journal may have it till then.
--!include incarnation
--!include withdraw
--!include due
local current = server_incarnation()
if ARGV[6] ~= current and ARGV[6] ~= '' then
  return {'other', current}
end
local answer, due, stood_behind = withdraw(ARGV[2], ARGV[1], KEYS[3], KEYS[1], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
if stood_behind then
  redis.call('HDEL', KEYS[8], stood_behind)
end
if answer == 1 then
  record_end(ARGV[2], 'cancelled', ARGV[3], KEYS[2], ARGV[4], KEYS[3], seconds_from(due or 0, ARGV[5]), KEYS[4])
end
local ended = redis.call('GET', KEYS[3])
if ended then -- a write of its own, so that a WAIT after it waits for something
  redis.call('EXPIRE', KEYS[3], math.max(redis.call('TTL', KEYS[3]), tonumber(ARGV[5])))
end
return {answer, ended or ''}
