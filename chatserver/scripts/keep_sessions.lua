-- keep_sessions: open sessions of users of one shard, or give signs of their life; tells what holds against them.
-- KEYS  1 control channel, 2 its log, then per session: sanctions, kicked_at, sessions, session:rooms, warned
-- ARGV  1 ms a sign of life counts, 2 most sessions of a user, 3 control log's length, 4 seed, 5 node,
--       6 nodes that went away (",a,b,"), 7 ms after which a sign of life is overdue, then per session: user, session, when it began ("" = now), name (JSON), its rooms (JSON)
-- returns {now, then per session {began, sanctions or false, kicked_at or false, replaced (1, 0), warned or false}}
--
-- A user has so many sessions at most: those make room whose node went away, then those with an overdue
-- sign of life, then the oldest; their nodes hear of it on the control channel. One that missed that, and gives a sign of life, is told here.
--!include clock
--!include publish
local now, lives, most, node = now_ms(), ARGV[1], tonumber(ARGV[2]), ARGV[5]

-- Members are ["session","node",began,"name"]; their beginning is read as text, JSON is not decoded here.
local function first_to_go(sessions)
  local members = redis.call('ZRANGE', sessions, 0, -1, 'WITHSCORES')
  local sorted = {}
  for i = 1, #members, 2 do
    local session, on, began = string.match(members[i], '^%["([^"]+)","([^"]+)",(%d+),')
    local standing = 2
    if string.find(ARGV[6], ',' .. on .. ',', 1, true) then
      standing = 0
    elseif now - tonumber(members[i + 1]) > tonumber(ARGV[7]) then
      standing = 1
    end
    sorted[#sorted + 1] = {member = members[i], session = session, began = tonumber(began), standing = standing}
  end
  table.sort(sorted, function(a, b)
    if a.standing ~= b.standing then
      return a.standing < b.standing
    end
    if a.began ~= b.began then
      return a.began < b.began
    end
    return a.session < b.session
  end)
  return sorted
end

-- What a killed node left behind goes here, while the user's other sessions keep the hash alive.
local function forget_rooms(rooms, sorted)
  local there = {}
  for _, entry in ipairs(sorted) do
    there[entry.session] = true
  end
  for _, session in ipairs(redis.call('HKEYS', rooms)) do
    if not there[session] then
      redis.call('HDEL', rooms, session)
    end
  end
end

local function make_room(sessions, rooms, user, mine)
  local sorted = first_to_go(sessions)
  if redis.call('HLEN', rooms) > #sorted then
    forget_rooms(rooms, sorted)
  end
  local replaced, others = 0, {}
  for i = 1, #sorted - most do
    redis.call('ZREM', sessions, sorted[i].member)
    redis.call('HDEL', rooms, sorted[i].session)
    if sorted[i].session == mine then
      replaced = 1
    else
      others[#others + 1] = '"' .. sorted[i].session .. '"'
    end
  end
  if #others > 0 then
    publish(KEYS[1], KEYS[2], ARGV[3], ARGV[4], 'control', '"type":"replaced","at":' .. digits(now)
      .. ',"data":{"user":"' .. user .. '","sessions":[' .. table.concat(others, ',') .. ']}}')
  end
  return replaced
end

local answers = {digits(now)}
for i = 1, (#KEYS - 2) / 5 do
  local sanctions, kicked, sessions, rooms, warned = unpack(KEYS, 5 * i - 2, 5 * i + 2)
  local user, session, began, name, in_rooms = unpack(ARGV, 5 * i + 3, 5 * i + 7)
  began = began == '' and digits(now) or began
  local kicked_at = redis.call('GET', kicked)
  local replaced = 0
  redis.call('ZREMRANGEBYSCORE', sessions, '-inf', '(' .. digits(now - lives))
  if not kicked_at or tonumber(kicked_at) <= tonumber(began) then
    redis.call('ZADD', sessions, now, '["' .. session .. '","' .. node .. '",' .. began .. ',' .. name .. ']')
    redis.call('HSET', rooms, session, in_rooms)
    replaced = make_room(sessions, rooms, user, session)
    redis.call('PEXPIRE', sessions, 2 * lives)
    redis.call('PEXPIRE', rooms, 2 * lives)
  end
  answers[i + 1] = {began, redis.call('GET', sanctions), kicked_at, replaced, redis.call('GET', warned)}
end
return answers
