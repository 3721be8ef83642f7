-- Managed by vllm-hosts. Finds "usage" in an answer that comes in pieces: one JSON object, or the events of a
-- stream, each of which has one behind "data:".
--
-- Nothing is built: strings are skipped, brackets counted, and only keys near the top compared. No answer is
-- held to be JSON; what is none has no usage, or a wrong one, and goes on as it came.

local ffi = require "ffi"

local M = {}

-- A usage is a few numbers.
local MAX_USAGE = 2048
-- States: the beginning of a line, the word that it begins with, the rest of one that is passed over, outside
-- and inside of a string, and behind a backslash.
local LINE, WORD, PASSED, OUTSIDE, TEXT, ESCAPED = 1, 2, 3, 4, 5, 6
local DATA = "data:"
local DATA_BYTES = {DATA:byte(1, -1)}

local mt = {__index = M}

-- A scanner for one answer; `lines`: of a stream's.
function M.new(lines)
    return setmetatable({
        lines = lines,
        state = lines and LINE or OUTSIDE,
        -- Bytes of the word that were seen.
        word = 0,
        depth = 0,
        -- The text of a short string near the top while it passes, and after it.
        from = nil, part = "", text = nil,
        -- Keys at the top, and one below.
        key = nil, below = nil,
        -- Bytes before this piece; where the last comma at the top was.
        passed = 0, comma = nil,
        -- The usage while it passes, and the depth at which it ends.
        usage = nil, usage_from = nil, usage_depth = nil, usage_key = nil,
        -- Lines of events that bring a part of the answer; whether "choices" is empty: nil, if there is none.
        deltas = 0, empty = nil, choices_next = false,
    }, mt)
end

-- As it was before the first byte of an event.
function M.restart(self)
    self.state, self.word, self.depth, self.passed = self.lines and LINE or OUTSIDE, 0, 0, 0
    self.from, self.part, self.text, self.key, self.below = nil, "", nil, nil, nil
    self.comma, self.usage, self.usage_from, self.usage_depth = nil, nil, nil, nil
    self.empty, self.choices_next = nil, false
end

local function begin_line(self)
    self.depth, self.text, self.from, self.part = 0, nil, nil, ""
    self.key, self.below, self.comma = nil, nil, nil
    self.usage, self.usage_from, self.usage_depth, self.choices_next = nil, nil, nil, false
end

-- A string near the top has ended before `i`.
local function text_ended(self, p, i)
    local text = self.part
    if i - self.from + #text <= 8 then
        self.text = text .. ffi.string(p + self.from, i - self.from)
    else
        self.text = nil
    end
    self.from, self.part = nil, ""
end

local function bracket_opens(self, i, curly)
    local depth = self.depth
    self.depth = depth + 1
    if self.usage_depth then return end
    local is_usage = curly and (
        depth == 1 and self.key == "usage"
        or depth == 2 and self.below == "usage" and (self.key == "response" or self.key == "message"))
    if is_usage then
        self.usage, self.usage_from, self.usage_depth = "", i, depth
        -- Where it could be taken out: from the comma before its key.
        self.usage_comma = depth == 1 and self.comma or nil
    elseif depth == 1 and not curly and self.key == "choices" then
        self.choices_next = true
    end
end

-- `found` is called with each usage that ends: its text, from where it could be taken out and to where.
local function bracket_closes(self, p, i, found)
    self.depth = self.depth - 1
    if self.depth ~= self.usage_depth then return end
    local from = self.usage_from
    self.usage_depth = nil
    if i - from + #self.usage < MAX_USAGE then
        found(self.usage .. ffi.string(p + from, i - from + 1), self.usage_comma, self.passed + i + 1)
    end
end

-- The next `n` bytes, at `p`.
function M.feed(self, p, n, found)
    local i, state, lines = 0, self.state, self.lines
    if self.usage_depth then self.usage_from = 0 end
    if self.from then self.from = 0 end
    while i < n do
        local c = p[i]
        if state == TEXT then
            while c ~= 34 and c ~= 92 and c ~= 10 do
                i = i + 1
                if i == n then break end
                c = p[i]
            end
            if i == n then break end
            if c == 34 then
                state = OUTSIDE
                if self.from then text_ended(self, p, i) end
            elseif c == 92 then
                state = ESCAPED
            elseif lines then
                state = LINE
            end
        elseif state == OUTSIDE then
            if self.choices_next and c ~= 32 then
                self.choices_next, self.empty = false, c == 93
            end
            if c == 34 then
                state = TEXT
                if self.depth <= 2 then self.from, self.part = i + 1, "" end
            elseif c == 123 or c == 91 then
                bracket_opens(self, i, c == 123)
            elseif c == 125 or c == 93 then
                bracket_closes(self, p, i, found)
            elseif c == 58 then
                if self.depth == 1 then
                    self.key = self.text
                elseif self.depth == 2 then
                    self.below = self.text
                end
            elseif c == 44 then
                if self.depth == 1 then
                    self.key, self.comma = nil, self.passed + i
                elseif self.depth == 2 then
                    self.below = nil
                end
            elseif c == 10 and lines then
                state = LINE
            end
        elseif state == ESCAPED then
            state = (c == 10 and lines) and LINE or TEXT
        elseif state == PASSED then
            while c ~= 10 do
                i = i + 1
                if i == n then break end
                c = p[i]
            end
            if i == n then break end
            -- As "event: content_block_delta".
            if i >= 5 and p[i - 1] == 97 and ffi.string(p + i - 5, 5) == "delta" then
                self.deltas = self.deltas + 1
            end
            state = LINE
        elseif state == LINE then
            begin_line(self)
            if c == DATA_BYTES[1] then
                state, self.word = WORD, 1
            elseif c ~= 10 then
                state = PASSED
            end
        else
            self.word = self.word + 1
            if c ~= DATA_BYTES[self.word] then
                state = c == 10 and LINE or PASSED
            elseif self.word == #DATA then
                state = OUTSIDE
            end
        end
        i = i + 1
    end
    self.state, self.passed = state, self.passed + n
    if self.usage_depth then
        local more = n - self.usage_from
        if #self.usage + more < MAX_USAGE then
            self.usage = self.usage .. ffi.string(p + self.usage_from, more)
        else
            self.usage_depth = nil
        end
    end
    if self.from then
        local more = n - self.from
        if more + #self.part <= 8 then
            self.part = self.part .. ffi.string(p + self.from, more)
        else
            self.from, self.part = nil, ""
        end
    end
end

return M
