-- claim: take over a page of the shard's pending entries, whoever held them; those were fenced when the epoch rose.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 starts
-- ARGV  1 lease token, 2 group, 3 consumer, 4 first id of the page
-- returns {next page's first id or '', seconds, microseconds, entries}; an entry is {id, fields, previous holder,
--         ms when it was delivered to it, starts that never ended or false, failed attempts or false}; error FENCED, NOGROUP
-- JUSTID: a claim that raises the delivery count would blame what only waited. An entry that somebody deleted from
-- the stream has no fields; it stays pending (XAUTOCLAIM and XCLAIM would drop it unseen) until the holder buries it.
--!include fence
--!include clock

-- Starts that never ended. One that was under way when the server became another one may have lost its shard by that,
-- and proves nothing; it is counted again if it does not end on this one.
local function never_ended(record, incarnation)
  local starts, since = string.match(record or '', '^(%d+) ?(%x*)$')
  if not starts or since == '' or since == incarnation then
    return starts or false
  end
  return digits(tonumber(starts) - 1)
end

local incarnation, fenced = fence(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if not incarnation then
  return fenced
end
local time, now = redis.call('TIME'), now_ms()
local pending = redis.call('XPENDING', KEYS[4], ARGV[2], ARGV[4], '+', 100)
if #pending == 0 then
  -- Names of nodes that are gone pile up. Only the holder reads, so who else holds nothing here can go;
  -- XGROUP DELCONSUMER would destroy what it holds.
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[4], ARGV[2])) do
    if consumer[2] ~= ARGV[3] and consumer[4] == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[4], ARGV[2], consumer[2])
    end
  end
  return {'', time[1], time[2], {}}
end
local entries, claimed = {}, {}
for i, row in ipairs(pending) do
  local id = row[1]
  local entry = redis.call('XRANGE', KEYS[4], id, id)[1]
  if entry then
    table.insert(claimed, id)
  end
  local known = redis.call('HMGET', KEYS[5], id, id .. ':failed')
  entries[i] = {id, entry and entry[2] or {}, row[2], digits(now - row[3]), never_ended(known[1], incarnation), known[2]}
end
if claimed[1] then
  table.insert(claimed, 'JUSTID')
  redis.call('XCLAIM', KEYS[4], ARGV[2], ARGV[3], 0, unpack(claimed))
end
return {'(' .. pending[#pending][1], time[1], time[2], entries}
