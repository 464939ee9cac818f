-- replay: put back what a publisher had accepted and this server may lack, in the order of acceptance.
-- KEYS  1 spare, 2 stream, 3 settled, 4 scheduled, 5 bodies, 6 moved, 7 dead, 8 requeued, 9 newer, 10 incarnation, 11 lease,
--       12 asleep, 13 ring channel, 14 ended channel,
--       then per row: idempotency key, outcome, outcome of the dead command that it repeats (spare: there is none)
-- ARGV  1 incarnation to put it back on, 2 group, 3 random step, 4 seconds keys and outcomes live, 5 settled's length,
--       6 most dead letters, 7 rows
--       then per row: operation, id, hash of the body, id of the dead command, its letter's entry id,
--         outcome (of a requeue: that of the dead command) or due (ms), n, n fields
-- returns {'other', incarnation}, or per row there, accepted, superseded (nothing was written), late (a node has begun it)
--         (of a bury: dropped, where an older letter made room)
--
-- One script for many rows: where one fails, none after it was put back, so the order stays. They were admitted once,
-- so neither the limit of the backlog nor a full server refuses them.
--!include incarnation
--!include due
--!include withdraw
--!include dead_letter
--!include ring
local call = redis.call
local MOST_DUE = 1000
local current = server_incarnation()
if current ~= ARGV[1] then
  return {'other', current}
end
call('DEL', KEYS[1])
note_incarnation(KEYS[10], KEYS[11])
local STREAM, SETTLED, SCHEDULED, BODIES, MOVED, DEAD, REQUEUED, NEWER = unpack(KEYS, 2, 9)
local group, step, seconds = ARGV[2], tonumber(ARGV[3]), ARGV[4]

-- The row at hand.
local id, hash, origin, letter, extra, first, last
local idem, outcome, origin_outcome
local letters -- read once, when one is looked for that is not where it was

local function is_there()
  return (trace(id, outcome, STREAM, SCHEDULED, MOVED, REQUEUED))
end

-- The caller has repeated the command meanwhile, with the same key.
local function repeated_since()
  local value = idem ~= KEYS[1] and call('GET', idem)
  return value and string.match(value, '^%S+') ~= id
end

local function field(name)
  for i = first, last, 2 do
    if ARGV[i] == name then
      return ARGV[i + 1]
    end
  end
end

-- A scheduled command's place is its time, on whichever server.
local function superseded(due)
  local subject = field('subject')
  return subject and is_newer(NEWER, subject, due or id_ms(id), not due and current) -- else no handler takes it either
end

local function keep_key(due_ms)
  if idem ~= KEYS[1] then
    call('SET', idem, id .. ' ' .. hash, 'EX', seconds_from(due_ms, seconds))
  end
end

-- After what was due before it was accepted. ``unless_done``: id of a command; nothing is to be done if that one is.
local function put_back(unless_done)
  promote_due(STREAM, SCHEDULED, BODIES, MOVED, id_ms(id), step, MOST_DUE, NEWER, seconds)
  local fields = {unpack(ARGV, first, last)}
  if unless_done then
    table.insert(fields, 'unless_done')
    table.insert(fields, unless_done)
  end
  call('HSET', MOVED, id, add(STREAM, step, fields))
  ring(KEYS[12], KEYS[13])
end

-- Command to entry, of all letters.
local function all_letters()
  local found, page, newest = {}, nil, '+'
  repeat
    page = call('XREVRANGE', DEAD, newest, '-', 'COUNT', 100)
    for _, each in ipairs(page) do
      found[each[2][2]] = found[each[2][2]] or each[1]
      newest = '(' .. each[1]
    end
  until #page < 100
  return found
end

local function is_letter_of(command, entry)
  local found = entry and call('XRANGE', DEAD, entry, entry)[1]
  return found and found[2][2] == command
end

-- Where a command's letter is, if it is where it was or among the newest.
local function near_letter(command)
  if is_letter_of(command, letter) then
    return letter
  end
  for _, each in ipairs(call('XREVRANGE', DEAD, '+', '-', 'COUNT', 10)) do
    if each[2][2] == command then
      return each[1]
    end
  end
end

-- The same, wherever it is: the command may have died again, and others after it.
local function find_letter(command)
  local near = near_letter(command)
  if near then
    return near
  end
  letters = letters or all_letters()
  return is_letter_of(command, letters[command]) and letters[command]
end

local function has_taken_effect(outcome_key)
  local record = call('GET', outcome_key)
  local state = record and cjson.decode(record).state
  return state == 'done' or state == 'cancelled'
end

local operations = {}

function operations.append()
  if is_there() or repeated_since() then
    return 'there'
  elseif superseded() then
    return 'superseded'
  end
  put_back()
  keep_key(0)
  return 'accepted'
end

function operations.schedule()
  if is_there() or repeated_since() then
    return 'there'
  elseif superseded(math.max(id_ms(id), extra)) then
    return 'superseded'
  end
  call('HSET', BODIES, id, netstrings({unpack(ARGV, first, last)}))
  call('ZADD', SCHEDULED, extra, id)
  keep_key(extra)
  call('SPUBLISH', KEYS[13], 'scheduled')
  return 'accepted'
end

-- Also where the command is not there: somebody else may put it back, who then finds that it has ended.
function operations.cancel()
  local found = call('GET', outcome)
  if found then
    return found == extra and 'there' or 'late'
  end
  local word, due, stood_behind = withdraw(id, group, outcome, STREAM, SCHEDULED, BODIES, MOVED, REQUEUED)
  if word == 2 then
    return 'late'
  elseif stood_behind then
    call('HDEL', REQUEUED, stood_behind)
  end
  record_end(id, 'cancelled', extra, SETTLED, ARGV[5], outcome, seconds_from(due or field('due') or 0, seconds), KEYS[14])
  return 'accepted'
end

-- Where no node has begun the command that it repeats, and whose death was lost, it takes that one's place: also where it
-- was cancelled since, which has been put back before, or where the other comes back only later, from somebody else.
-- That one's outcome tells it then. Where a node has begun it, the repetition stands behind it, in case it dies again, as does
-- what repeats that repetition; and where it has ended, the node that reads the repetition judges by how.
-- `requeued` has only commands with letters, as a field leaves with its letter, or that may get one.
function operations.requeue()
  local there, has_letter, stands_behind, has_ended = is_there(), near_letter(origin), nil, false
  if not has_letter and call('GET', origin_outcome) ~= extra then
    has_letter = not there and find_letter(origin)
    if not has_letter then
      local word, _, stood_behind = withdraw(origin, group, origin_outcome, STREAM, SCHEDULED, BODIES, MOVED, REQUEUED)
      if word == 1 or not trace(origin, origin_outcome, STREAM, SCHEDULED, MOVED, REQUEUED) then
        stands_behind = stood_behind
        record_end(origin, 'dead', extra, SETTLED, ARGV[5], origin_outcome, seconds, KEYS[14])
      else
        stands_behind, has_ended = origin, word ~= 2
      end
    end
  end
  if there then
    if has_letter then
      call('HSETNX', REQUEUED, origin, id)
    end
    return 'there'
  elseif not (has_ended and has_taken_effect(origin_outcome)) and superseded() then
    return 'superseded'
  end
  put_back(stands_behind)
  if has_letter or stands_behind and not has_ended then
    call('HSET', REQUEUED, stands_behind or origin, id)
  end
  return 'accepted'
end

function operations.discard()
  local found = near_letter(id)
  if not found and call('GET', outcome) == extra then
    return 'there'
  end
  found = found or find_letter(id)
  if found then
    call('XDEL', DEAD, found)
    call('HDEL', REQUEUED, id)
    return 'accepted'
  end
  local word, _, stood_behind = withdraw(id, group, outcome, STREAM, SCHEDULED, BODIES, MOVED, REQUEUED)
  if word == 2 then
    return 'late'
  end
  if stood_behind then
    call('HDEL', REQUEUED, stood_behind)
  end
  if word == 1 or call('EXISTS', outcome) == 0 then
    record_end(id, 'dead', extra, SETTLED, ARGV[5], outcome, seconds, KEYS[14])
    return 'accepted'
  end
  return 'there'
end

-- For a row that was answered 'superseded': the operator decides.
function operations.bury()
  if is_there() then
    return 'there'
  end
  local dropped = dead_letter(DEAD, REQUEUED, ARGV[6], id, 'superseded',
    'lost in a fail-over, and its subject has had later commands since', 0, '', digits(now_ms()), 0, {unpack(ARGV, first, last)})
  if origin ~= '' and find_letter(origin) then
    call('HSET', REQUEUED, origin, id) -- or both letters could be requeued
  end
  record_end(id, 'dead', extra, SETTLED, ARGV[5], outcome, seconds, KEYS[14])
  keep_key(0)
  return dropped > 0 and 'dropped' or 'accepted'
end

local answers, at, key = {}, 8, 15
for i = 1, tonumber(ARGV[7]) do
  local operation, n
  operation, id, hash, origin, letter, extra, n = unpack(ARGV, at, at + 6)
  first, last = at + 7, at + 6 + n
  idem, outcome, origin_outcome = unpack(KEYS, key, key + 2)
  answers[i] = operations[operation]()
  at, key = last + 1, key + 3
end
return answers
