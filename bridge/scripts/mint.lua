-- mint (include): the next entry id of a stream: server ms, and a sequence that advances by a random step.
--!include clock
-- The step (1 to 2^32, from the caller) is why an id that a fail-over lost never returns.
-- The last id survives deletion of its entry; a clock set back continues from it.
local function mint(stream, step)
  local ms, seq = now_ms(), tonumber(step)
  if redis.call('EXISTS', stream) == 1 then
    local last = redis.call('XINFO', 'STREAM', stream)[8] -- last-generated-id; the order is the same on all servers
    local last_ms, last_seq = string.match(last, '(%d+)-(%d+)')
    last_ms = tonumber(last_ms)
    if last_ms >= ms then
      ms, seq = last_ms, tonumber(last_seq) + seq
      if seq > 2 ^ 52 then -- beyond this, Lua's numbers have gaps
        ms, seq = ms + 1, tonumber(step)
      end
    end
  end
  return digits(ms) .. '-' .. digits(seq)
end
