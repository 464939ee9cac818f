-- permitted: which commands the calling user may not run here.
-- KEYS  none
-- ARGV  one sample call each, its words separated by blanks
-- returns those that the server lacks or forbids; error if it has no way to tell
if not redis.acl_check_cmd then
  return redis.error_reply('ERR this server cannot tell')
end
local lacking = {}
for _, sample in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(sample, '%S+') do
    table.insert(words, word)
  end
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words)) -- it raises for what it does not know
  if not (known and allowed) then
    table.insert(lacking, sample)
  end
end
return lacking
