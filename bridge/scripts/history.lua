-- history (include): a server that comes back may lack its last writes. Publishers with a journal put back what they
-- had accepted, and until they have, or 5 s have passed, nobody else's new commands go before theirs.
--!include incarnation
--!include clock
-- `history` names the incarnation on which everybody has put back everything: usually this one. `publishers` has for
-- each its last sign of life and the incarnation that it vouches for, and under HOLD when waiting for them ends.
local HOLD, HOLD_MS, SILENT_MS, MOST_NEWER = ':hold', 5000, 30000, 10000

-- returns whether somebody awaited is behind, whether anybody is, and when waiting ends on this incarnation, if it began
local function look(publishers_key, current, now, forget_ms)
  local ends, behind = nil, {}
  local all = redis.call('HGETALL', publishers_key)
  for i = 1, #all, 2 do
    local ms, incarnation = string.match(all[i + 1], '^(%d+) (%S+)$')
    if all[i] == HOLD then
      ends = incarnation == current and tonumber(ms) or nil
    elseif incarnation ~= current and now - ms > forget_ms then
      redis.call('HDEL', publishers_key, all[i])
    elseif incarnation ~= current then
      table.insert(behind, tonumber(ms))
    end
  end
  local awaited = false
  for _, ms in ipairs(behind) do
    awaited = awaited or ms > (ends and ends - HOLD_MS or now) - SILENT_MS
  end
  return awaited, #behind > 0, ends
end

-- returns ms to wait before new commands are taken, or nil; and whether some replay may still come
-- A full server refuses at the first write here, as it would the command.
local function enter(history_key, publishers_key, incarnation_key, lease_key, current, seconds)
  local now = now_ms()
  local awaited, any, ends = look(publishers_key, current, now, seconds * 1000)
  if not any then
    redis.call('SET', history_key, current)
    redis.call('HDEL', publishers_key, HOLD)
  elseif not ends then
    ends = now + HOLD_MS
    redis.call('HSET', publishers_key, HOLD, digits(ends) .. ' ' .. current)
    redis.call('EXPIRE', publishers_key, seconds)
  end
  note_incarnation(incarnation_key, lease_key)
  if awaited and now < ends then
    return ends - now, true
  end
  return nil, any
end

-- While a replay may come: which subjects have a later command than it, so that it does not undo that one.
local function note_newer(newer_key, fields, first, id, seconds)
  for i = first, #fields, 2 do
    if fields[i] == 'subject' then
      local name = redis.call('HLEN', newer_key) < MOST_NEWER and fields[i + 1] or '*'
      redis.call('HSET', newer_key, name, string.match(id, '(%d+)-%d+$'))
      redis.call('EXPIRE', newer_key, seconds)
      return
    end
  end
end
