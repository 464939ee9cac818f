-- newer (include): while a replay may come, which subjects have a later command than it, so that it does not undo that one.
--!include clock
-- Each subject, and '*' for those beyond the limit, has the ms of its last one, and the incarnation that accepted one
-- ('-' = none did: it was scheduled before, and fell due).
local MOST_NEWER = 10000

local function id_ms(id)
  return tonumber((string.match(id, '(%d+)-%d+$')))
end

local function read_sign(value)
  local ms, incarnation = string.match(value or '', '^(%d+) (%S+)$')
  return tonumber(ms), incarnation
end

local function note_newer(newer_key, fields, first, ms, incarnation, seconds)
  for i = first, #fields, 2 do
    if fields[i] == 'subject' then
      local name = redis.call('HLEN', newer_key) < MOST_NEWER and fields[i + 1] or '*'
      local last, before = read_sign(redis.call('HGET', newer_key, name))
      redis.call('HSET', newer_key, name, digits(math.max(ms, last or 0)) .. ' ' .. (incarnation or before or '-'))
      redis.call('EXPIRE', newer_key, seconds)
      return
    end
  end
end

-- Whether a subject has a later command than one of those ms. One that another incarnation accepted than `current` is
-- older than what this one did, whatever two servers' clocks say; without `current`, the times decide alone.
local function is_newer(newer_key, subject, ms, current)
  for _, value in ipairs(redis.call('HMGET', newer_key, subject, '*')) do
    local last, incarnation = read_sign(value)
    if last and (last > ms or incarnation == current) then
      return true
    end
  end
  return false
end
