-- mint (include): the next entry id of a stream: server ms, and a sequence that only grows and is partly random.
--!include clock
-- The sequence is 10^9 (so that all have ten digits, and sort as text too) plus the microsecond within the ms times
-- 2^20, plus a random step from the caller (1 to 2^20). So it grows by itself, and an id that a fail-over lost never
-- returns. Where the clock stands still or was set back, it goes on from the stream's last id, which survives
-- deletion of its entry.
local BASE, SPACE = 10 ^ 9, 2 ^ 20

local function mint(step)
  local time = redis.call('TIME')
  local micros = tonumber(time[2])
  return digits(time[1] * 1000 + math.floor(micros / 1000)) .. '-' .. digits(BASE + micros % 1000 * SPACE + step)
end

local function after_last(stream, step)
  local last = redis.call('XINFO', 'STREAM', stream)[8] -- last-generated-id; the order is the same on all servers
  local ms, seq = string.match(last, '(%d+)-(%d+)')
  ms, seq = tonumber(ms), tonumber(seq) + step
  if seq > 2 ^ 52 then -- beyond this, Lua's numbers have gaps
    ms, seq = ms + 1, step
  end
  return digits(ms) .. '-' .. digits(seq)
end

-- XADD of fields, from the first-th to the last-th, under a new id, which it returns. Raises what XADD raises; nothing was
-- written then.
local function add(stream, step, fields, first, last)
  first, last = first or 1, last or #fields
  local id = mint(step)
  local added = redis.pcall('XADD', stream, id, unpack(fields, first, last))
  if added.err and string.find(added.err, 'equal or smaller', 1, true) then
    return redis.call('XADD', stream, after_last(stream, step), unpack(fields, first, last))
  elseif added.err then
    error(added)
  end
  return added
end
