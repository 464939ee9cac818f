-- netstrings (include): a list of byte strings in one value, 5:hello,5:world, (Bernstein 1997).
-- Any bytes, any number of them, and no unpack of a foreign entry's size.
local function netstrings(list)
  local parts = {}
  for i, value in ipairs(list) do
    parts[i] = #value .. ':' .. value .. ','
  end
  return table.concat(parts)
end

local function read_netstrings(text)
  local list, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local last = colon + tonumber(string.sub(text, at, colon - 1))
    table.insert(list, string.sub(text, colon + 1, last))
    at = last + 2
  end
  return list
end
