-- due (include): put scheduled commands on the stream whose time has come, in the order of their times.
--!include mint
--!include netstrings
--!include newer
-- A lost command that comes back only later must not undo them: they are noted under `newer_key` (nil: nobody is behind).
-- Each keeps its public id, which `moved` leads to the new entry. returns how many were moved, `most` at most
local function promote_due(stream, scheduled_key, bodies_key, moved_key, ms, step, most, newer_key, seconds)
  local due = redis.call('ZRANGEBYSCORE', scheduled_key, '-inf', digits(ms), 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local body = redis.call('HGET', bodies_key, id)
    if body then
      -- Added before it leaves the schedule.
      local fields = read_netstrings(body)
      redis.call('HSET', moved_key, id, add(stream, step, fields))
      if newer_key then
        local its_time = math.max(id_ms(id), redis.call('ZSCORE', scheduled_key, id))
        note_newer(newer_key, fields, 1, its_time, nil, seconds)
      end
    end
    redis.call('ZREM', scheduled_key, id)
    redis.call('HDEL', bodies_key, id)
  end
  return #due
end

-- For how many seconds a command that is due then is remembered from now on, if others are for so many.
local function seconds_from(due_ms, seconds)
  return digits(math.ceil(math.max(0, due_ms - now_ms()) / 1000) + seconds)
end
