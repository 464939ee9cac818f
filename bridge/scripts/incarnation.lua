-- incarnation (include): which life of which server this is. It changes with every promotion and restart.
local function server_incarnation()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- A server that comes back may lack the last writes, so ids and epochs of its past can return.
-- On another incarnation than the one stored, the lease is void. DEL needs no memory and comes
-- first, so that SET passes on a full server.
local function note_incarnation(incarnation_key, lease_key)
  local current = server_incarnation()
  if redis.call('GET', incarnation_key) == current then
    return current, true
  end
  redis.call('DEL', lease_key)
  redis.call('SET', incarnation_key, current)
  return current, false
end
