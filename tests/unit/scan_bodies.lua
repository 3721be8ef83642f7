-- Feeds bodies to a scanner of the edge, as tests write them: FOLDER is where the scanners are. On
-- standard input "KIND LENGTH PIECE TYPE" and the body, again and again; on standard output a line for each.
local ffi = require "ffi"
package.path = arg[1] .. "/?.lua;" .. package.path
local json = require "model_scanner"
local turns = require "affinity_scanner"
local links = require "link_scanner"
local scanners = {json = json, asks = json, form = require "form_scanner", turns = turns, links = links}
local plain = {turns = true, links = true}

local function hex(text)
    return (text:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

for line in io.lines() do
    local kind, length, piece, content_type = line:match("^(%a+) (%d+) (%d+) ?(.*)$")
    length, piece = tonumber(length), tonumber(piece)
    local body = length > 0 and io.read(length) or ""
    local scanner = scanners[kind].new(content_type)
    local from, bytes = 0, ffi.cast("const uint8_t *", body)
    collectgarbage()
    local slowest, began, before, most = 0, os.clock(), collectgarbage("count"), 0
    while scanner and from < length do
        local n = math.min(piece, length - from)
        local start = os.clock()
        local going = scanner:feed(bytes + from, n)
        slowest = math.max(slowest, os.clock() - start)
        most = math.max(most, collectgarbage("count") - before)
        if not going and not plain[kind] then break end
        from = from + n
    end
    local whole, model = false, nil
    if plain[kind] then
        whole = scanner:finish() or "none"
    elseif scanner then
        whole, model = scanner:finish()
    end
    local said = not whole and "refused" or model == nil and "none" or model == false and "other"
        or "model " .. hex(model)
    if plain[kind] then
        said = kind == "links" and whole ~= "none" and "id " .. hex(whole) or whole
    elseif kind == "asks" and whole then
        -- What is told of a stream, as the first letters of its values, and where the object ends.
        local letters = {scanner.stream or 45, scanner.options or 45, scanner.include or 45, scanner.continuous or 45}
        said = string.char(unpack(letters)) .. " " .. tonumber(scanner.last)
    end
    io.write(string.format("%.6f %.6f %d %s\n", os.clock() - began, slowest, most, said))
    io.flush()
end
