-- replicas: how many replicas follow this server, by what they have said within the last seconds.
-- KEYS  1 any key of it
-- ARGV  1 seconds
-- returns their number
local count = 0
for lag in string.gmatch(redis.call('INFO', 'replication'), 'state=online,offset=%d+,lag=(%d+)') do
  if tonumber(lag) <= tonumber(ARGV[1]) then
    count = count + 1
  end
end
return count
