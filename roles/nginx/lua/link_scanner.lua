-- Managed by vllm-hosts. On a gateway: the response that a request goes on from, its top-level "previous_response_id", from
-- a JSON object that comes in pieces.
--
-- Only short strings at the top are built, and as they are written: an identifier needs no escapes. Nor is it checked
-- whether this is JSON, which another scanner does.

local ffi = require "ffi"

local M = {}

local KEY = "previous_response_id"
-- Of what is longer, its beginning: it is neither the key nor an identifier.
local LONGEST = 200
-- Before the first byte, outside and inside of a string, and behind a backslash.
local BEGIN, OUTSIDE, TEXT, ESCAPED, DONE = 1, 2, 3, 4, 5

local mt = {__index = M}

function M.new()
    return setmetatable({
        state = BEGIN,
        depth = 0,
        -- A string at the top while it passes: where in this piece it began, and what of it came before.
        from = nil, part = "",
        -- The last one, and whether it is a value of KEY.
        text = nil, wanted = false,
        -- The last value, as in Python.
        found = nil,
    }, mt)
end

local function keep(self, p, to)
    local room = LONGEST - #self.part
    if room > 0 then self.part = self.part .. ffi.string(p + self.from, math.min(to - self.from, room)) end
end

local function outside(self, c, i)
    local depth = self.depth
    if c == 34 then
        if depth == 1 then self.from, self.part = i + 1, "" end
        return TEXT
    elseif c == 91 or c == 123 then
        self.depth = depth + 1
    elseif c == 93 or c == 125 then
        self.depth = depth - 1
        if depth <= 1 then return DONE end
    elseif depth == 1 then
        if c == 58 then
            self.wanted = self.text == KEY
            -- A later one of another kind is none.
            if self.wanted then self.found = nil end
        elseif c == 44 then
            self.wanted, self.text = false, nil
        end
    end
    return OUTSIDE
end

-- The next `n` bytes, at `p`.
function M.feed(self, p, n)
    local i, state = 0, self.state
    if state == DONE then return end
    if self.from then self.from = 0 end
    while i < n do
        local c = p[i]
        if state == TEXT then
            while c ~= 34 and c ~= 92 do
                i = i + 1
                if i == n then break end
                c = p[i]
            end
            if i == n then break end
            if c == 92 then
                state = ESCAPED
            else
                state = OUTSIDE
                if self.from then
                    keep(self, p, i)
                    self.from, self.text = nil, self.part
                    if self.wanted then self.found = self.text end
                end
            end
        elseif state == OUTSIDE then
            state = outside(self, c, i)
            if state == DONE then break end
        elseif state == ESCAPED then
            state = TEXT
        elseif c == 123 then
            state, self.depth = OUTSIDE, 1
        elseif c > 32 and c < 128 then
            -- A form, or nothing that we know.
            state = DONE
            break
        end
        i = i + 1
    end
    self.state = state
    if self.from then keep(self, p, n) end
end

-- The identifier; nil: there is none.
function M.finish(self)
    return self.found
end

return M
