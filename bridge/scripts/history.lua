-- history (include): a server that comes back may lack its last writes. Publishers with a journal put back what they
-- had accepted, and until they have, or 5 s have passed, nobody else's new commands go before theirs.
--!include incarnation
--!include clock
--!include newer
-- `history` names the incarnation on which everybody has put back everything: usually this one. `publishers` has for
-- each its last sign of life and the incarnation that it vouches for. Besides, each as ms and an incarnation: under HOLD
-- when waiting for them ends, under SEEN anybody's last sign, under BEFORE anybody's last sign before this incarnation.
local HOLD, SEEN, BEFORE = ':hold', ':seen', ':before'
local HOLD_MS, SILENT_MS = 5000, 30000

-- A sign of life of anybody. The last one before this incarnation is kept: the server's own absence is nobody's silence.
local function note_sign(publishers_key, current, now)
  local ms, incarnation = read_sign(redis.call('HGET', publishers_key, SEEN))
  if ms and incarnation ~= current then
    redis.call('HSET', publishers_key, BEFORE, digits(ms) .. ' ' .. current)
  end
  redis.call('HSET', publishers_key, SEEN, digits(now) .. ' ' .. current)
end

-- returns anybody's last sign before this incarnation, if there was one
local function last_sign(publishers_key, current)
  local seen, before = unpack(redis.call('HMGET', publishers_key, SEEN, BEFORE))
  local ms, incarnation = read_sign(seen)
  if incarnation ~= current then
    return ms
  end
  ms, incarnation = read_sign(before)
  return incarnation == current and ms or nil
end

-- Publishers that were killed, and whose names nobody takes again.
local function forget_silent(publishers_key, now, forget_ms)
  local all = redis.call('HGETALL', publishers_key)
  for i = 1, #all, 2 do
    local ms = read_sign(all[i + 1])
    if string.sub(all[i], 1, 1) ~= ':' and now - ms > forget_ms then
      redis.call('HDEL', publishers_key, all[i])
    end
  end
end

-- returns whether somebody awaited is behind, whether anybody is, and when waiting ends on this incarnation, if it began
-- Times of before may be ahead, by another server's clock or by this one's, if it was set back.
local function look(publishers_key, current, now, forget_ms)
  local ends, behind = nil, {}
  local all = redis.call('HGETALL', publishers_key)
  for i = 1, #all, 2 do
    local ms, incarnation = read_sign(all[i + 1])
    if all[i] == HOLD then
      ends = incarnation == current and ms or nil
    elseif all[i] ~= SEEN and all[i] ~= BEFORE and incarnation ~= current then
      if now - ms > forget_ms then
        redis.call('HDEL', publishers_key, all[i])
      else
        table.insert(behind, ms)
      end
    end
  end
  local since = math.min(now, last_sign(publishers_key, current) or ends and ends - HOLD_MS or now) - SILENT_MS
  local awaited = false
  for _, ms in ipairs(behind) do
    awaited = awaited or ms > since
  end
  return awaited, #behind > 0, ends
end

-- returns ms to wait before new commands are taken, or nil; and whether some replay may still come
-- A full server refuses at the first write here, as it would the command.
local function enter(history_key, publishers_key, incarnation_key, lease_key, current, seconds)
  local now = now_ms()
  local awaited, any, noted = look(publishers_key, current, now, seconds * 1000)
  local ends = math.min(noted or now + HOLD_MS, now + HOLD_MS)
  if now >= ends then
    ends = 0 -- it is over for good, wherever the clock goes
  end
  if not any then
    redis.call('SET', history_key, current)
    redis.call('HDEL', publishers_key, HOLD)
  elseif ends ~= noted then
    redis.call('HSET', publishers_key, HOLD, digits(ends) .. ' ' .. current)
    redis.call('EXPIRE', publishers_key, seconds)
  end
  note_incarnation(incarnation_key, lease_key)
  if awaited and now < ends then
    return ends - now, true
  end
  return nil, any
end
