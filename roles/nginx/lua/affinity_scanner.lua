-- Managed by vllm-hosts. A number for the beginning of a prompt, from a JSON object that comes in pieces: the same one
-- in each turn of a conversation.
--
-- Of a list ("messages", "input") that is everything up to the end of the first message whose "role" is "user"; of
-- a text, or of a list of other things than objects, its first bytes. Nothing is built: bytes go into the number
-- as they are written, and behind the beginning nothing is read any more. Nor is it checked whether this is JSON,
-- which the other scanner does: what is none goes nowhere.

local ffi = require "ffi"
local bit = require "bit"
local band, bxor, lshift, rshift, tobit = bit.band, bit.bxor, bit.lshift, bit.rshift, bit.tobit

local M = {}

-- Of what has no messages: beginnings are shared by whoever completes the same file, or has the same instructions.
local FEW = 256
local KEYS = {messages = true, input = true, prompt = true}
-- The longest of them, and of "role" and "user".
local LONGEST = 8
-- Before the first byte, outside and inside of a string, and behind a backslash.
local BEGIN, OUTSIDE, TEXT, ESCAPED, DONE = 1, 2, 3, 4, 5

local mt = {__index = M}

function M.new()
    return setmetatable({
        state = BEGIN,
        depth = 0,
        -- A short string near the top while it passes, and after it.
        from = nil, part = "", text = nil,
        -- Keys at the top, and of a message.
        key = nil, below = nil,
        -- Where in this piece the bytes begin that are still to be added; nil: none are.
        begun = nil,
        -- How many more are, and the number so far: nil, if there was no beginning.
        left = 0, number = nil,
        -- Whether the message has said that it is the user's.
        user = false,
    }, mt)
end

-- Jenkins' "one at a time", without its end.
local function add(self, p, from, to)
    local count = math.min(to - from, self.left)
    local number = self.number
    for i = from, from + count - 1 do
        number = tobit(number + p[i])
        number = tobit(number + lshift(number, 10))
        number = bxor(number, rshift(number, 6))
    end
    self.number, self.left = number, self.left - count
end

local function begin(self, i, count)
    self.number, self.begun, self.left = 0, i, count
end

-- What of the beginning is in this piece, up to before `i`, was the last.
local function finish(self, p, i)
    if self.begun then add(self, p, self.begun, i) end
    self.begun = nil
    return DONE
end

local function text_ended(self, p, i)
    if i - self.from + #self.part <= LONGEST then
        self.text = self.part .. ffi.string(p + self.from, i - self.from)
    else
        self.text = nil
    end
    self.from, self.part = nil, ""
    if self.depth == 3 and self.begun and self.below == "role" and self.text == "user" then
        self.user = true
    end
end

-- The state behind byte `c`, outside of strings.
local function outside(self, c, p, i)
    local depth = self.depth
    if c == 34 then
        if not self.begun and depth == 1 and KEYS[self.key] then begin(self, i + 1, FEW) end
        if depth == 1 or depth == 3 then self.from, self.part = i + 1, "" end
        return TEXT
    elseif c == 91 or c == 123 then
        if c == 91 and depth == 1 and KEYS[self.key] then
            begin(self, i, FEW)
        elseif c == 123 and depth == 2 and self.begun then
            add(self, p, self.begun, i)
            -- Behind many other things, none of it counts.
            if self.left == 0 then return DONE end
            self.begun, self.left, self.user, self.below = i, math.huge, false, nil
        end
        self.depth = depth + 1
    elseif c == 93 or c == 125 then
        depth = depth - 1
        self.depth = depth
        if depth <= 0 then return DONE end
        if self.begun and (depth == 1 or depth == 2 and c == 125 and self.user) then
            return finish(self, p, i + 1)
        end
    elseif c == 58 then
        if depth == 1 then self.key = self.text elseif depth == 3 then self.below = self.text end
    elseif c == 44 then
        if depth == 1 then self.key = nil elseif depth == 3 then self.below = nil end
    end
    return OUTSIDE
end

-- The next `n` bytes, at `p`.
function M.feed(self, p, n)
    local i, state = 0, self.state
    if state == DONE then return end
    if self.begun then self.begun = 0 end
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
                if self.from then text_ended(self, p, i) end
                -- A text that is the prompt itself.
                if self.begun and self.depth == 1 then state = finish(self, p, i) end
            end
        elseif state == OUTSIDE then
            state = outside(self, c, p, i)
        elseif state == ESCAPED then
            state = TEXT
        elseif c == 123 then
            state, self.depth = OUTSIDE, 1
        elseif c > 32 and c < 128 then
            -- A form, or nothing that we know.
            state = DONE
        end
        if state == DONE then break end
        i = i + 1
    end
    self.state = state
    if state == DONE then return end
    if self.begun then
        add(self, p, self.begun, n)
        if self.left == 0 then self.state = DONE end
    end
    if self.from then
        if n - self.from + #self.part <= LONGEST then
            self.part = self.part .. ffi.string(p + self.from, n - self.from)
        else
            self.from, self.part, self.text = nil, "", nil
        end
    end
end

-- As eight digits; nil: there is no beginning of a prompt.
function M.finish(self)
    local number = self.number
    if not number then return nil end
    number = tobit(number + lshift(number, 3))
    number = bxor(number, rshift(number, 11))
    number = tobit(number + lshift(number, 15))
    return bit.tohex(number)
end

return M
