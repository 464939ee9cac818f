-- clock (include): the server's time in whole milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Lua writes large numbers in exponents; ids and times need digits.
local function digits(number)
  return string.format('%.0f', number)
end
