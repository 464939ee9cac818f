-- withdraw (include): take a command that no node has read off the stream or the schedule.
--!include trace
-- returns 1 withdrawn, 0 not there, 2 delivered already; when it was due, if it was scheduled still; and the command that
--         it stood behind, if it repeated one that may die again: who withdraws it for good takes that one out of `requeued`
local function withdraw(id, group, outcome_key, stream, scheduled_key, bodies_key, moved_key, requeued_key)
  local due = redis.call('ZSCORE', scheduled_key, id)
  if due then
    redis.call('ZREM', scheduled_key, id)
    redis.call('HDEL', bodies_key, id)
    return 1, tonumber(due)
  end
  local _, entry = trace(id, outcome_key, stream, scheduled_key, moved_key, requeued_key)
  if not entry then
    return 0
  end
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1) -- an error: no group, so nobody read it
  if not pending.err and #pending > 0 then
    return 2
  end
  local fields, stood_behind = redis.call('XRANGE', stream, entry, entry)[1][2], nil
  for i = 1, #fields, 2 do
    stood_behind = fields[i] == 'unless_done' and fields[i + 1] or stood_behind
  end
  redis.call('XDEL', stream, entry)
  redis.call('HDEL', moved_key, id)
  return 1, nil, stood_behind
end

-- The record of a command that ended without a handler.
local function record_end(id, state, outcome, settled_key, length, outcome_key, seconds, ended_channel)
  redis.call('XADD', settled_key, 'MAXLEN', '~', length, '*', 'id', id, 'state', state, 'outcome', outcome)
  redis.call('SET', outcome_key, outcome, 'EX', seconds)
  redis.call('SPUBLISH', ended_channel, id)
end
