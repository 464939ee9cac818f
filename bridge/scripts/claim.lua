-- claim: take over a page of the shard's pending entries, whoever held them; those were fenced when the epoch rose.
-- KEYS  1 lease, 2 epoch, 3 incarnation, 4 stream, 5 starts, 6 dead, 7 requeued
-- ARGV  1 lease token, 2 group, 3 consumer, 4 first id of the page, 5 shard, 6 most dead letters
-- returns {next page's first id or '', seconds, microseconds, entries, buried ids};
--         an entry is {id, fields, previous holder, ms when it was delivered to it, starts that never ended or false, failed attempts or false}
--         error FENCED, NOGROUP
-- JUSTID: a claim that raises the delivery count would blame what only waited.
--!include fence
--!include clock
--!include dead_letter
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
  return {'', time[1], time[2], {}, {}}
end
redis.call('XAUTOCLAIM', KEYS[4], ARGV[2], ARGV[3], 0, ARGV[4], 'COUNT', 100, 'JUSTID')
local entries, buried = {}, {}
for _, row in ipairs(pending) do
  local id, holder = row[1], row[2]
  local entry = redis.call('XRANGE', KEYS[4], id, id)[1]
  if entry then
    local known = redis.call('HMGET', KEYS[5], id, id .. ':failed')
    table.insert(entries, {id, entry[2], holder, digits(now - row[3]), known[1], known[2]})
  else -- somebody deleted it from the stream; XAUTOCLAIM says so once and forgets it
    redis.call('XACK', KEYS[4], ARGV[2], id)
    redis.call('HDEL', KEYS[5], id, id .. ':failed')
    dead_letter(KEYS[6], KEYS[7], ARGV[6], ARGV[5] .. '-' .. id, 'undecodable',
      'deleted from the stream while it was pending', 0, holder, digits(now), 0, {})
    table.insert(buried, id)
  end
end
return {'(' .. pending[#pending][1], time[1], time[2], entries, buried}
