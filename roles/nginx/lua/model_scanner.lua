-- Managed by vllm-hosts. Finds the top-level "model" of a JSON object that comes in pieces, how it wants its
-- answer ("stream", "stream_options", "n"), and where it ends.
--
-- One table says for each state and byte what comes next: all of JSON as Python's json takes it, UTF-8
-- included. Nothing is built, and no text of a body becomes a Lua string except the model's value,
-- so that a body costs the same memory whatever is in it. What has to be counted or kept, brackets
-- and that value, are events.

local ffi = require "ffi"
local bit = require "bit"

local M = {}

-- What Python's json reads without a limit of its own; nobody's messages are that deep.
local MAX_DEPTH = 1000
-- Bytes of the model's value as it is written, which may be six for each that it has.
local MAX_VALUE = 2048

-- A row of the table is a state, named by where it begins; 0 is an error, which nothing leaves.
local STATES = 1024
local table_of = ffi.new("uint32_t[?]", STATES * 256)
local FAILED = 0
local used = 1

local function state()
    local row = used * 256
    used = used + 1
    assert(used <= STATES)
    return row
end

-- Events stand behind all rows.
local EVENTS = STATES * 256
local OPEN_OBJECT, OPEN_LIST, CLOSE = EVENTS, EVENTS + 1, EVENTS + 2
local VALUE_BEGINS, VALUE_ENDS, OTHER_VALUE = EVENTS + 3, EVENTS + 4, EVENTS + 5
local STREAM, OPTIONS, INCLUDE, CONTINUOUS = EVENTS + 6, EVENTS + 7, EVENTS + 8, EVENTS + 9
local NO_COUNT, DIGIT = EVENTS + 10, EVENTS + 11

local function on(row, bytes, target)
    for i = 1, #bytes do
        table_of[row + bytes:byte(i)] = target
    end
end

local function on_range(row, first, last, target)
    for byte = first, last do
        table_of[row + byte] = target
    end
end

local function copy(row, from)
    for byte = 0, 255 do
        table_of[row + byte] = table_of[from + byte]
    end
end

local SPACE = " \t\r\n"
local DIGITS, HEX = "0123456789", "0123456789abcdefABCDEF"

-- The inside of a string, until the quote that ends it leads to `ended`. The state itself, and
-- those in which a backslash and digits after \u leave it.
local function string_states(ended)
    local inside, escaped = state(), state()
    local hex = {state(), state(), state(), state()}
    local one, two, three = state(), state(), state()
    local no_overlong, no_surrogate, no_long, no_beyond = state(), state(), state(), state()
    on_range(inside, 0x20, 0x7f, inside)
    on(inside, '"', ended)
    on(inside, "\\", escaped)
    on(escaped, '"\\/bfnrt', inside)
    on(escaped, "u", hex[1])
    for i = 1, 4 do
        on(hex[i], HEX, hex[i + 1] or inside)
    end
    on_range(inside, 0xc2, 0xdf, one)
    on_range(inside, 0xe1, 0xef, two)
    on(inside, "\224", no_overlong)
    on(inside, "\237", no_surrogate)
    on_range(inside, 0xf1, 0xf3, three)
    on(inside, "\240", no_long)
    on(inside, "\244", no_beyond)
    on_range(one, 0x80, 0xbf, inside)
    on_range(two, 0x80, 0xbf, one)
    on_range(three, 0x80, 0xbf, two)
    on_range(no_overlong, 0xa0, 0xbf, one)
    on_range(no_surrogate, 0x80, 0x9f, one)
    on_range(no_long, 0x90, 0xbf, two)
    on_range(no_beyond, 0x80, 0x8f, two)
    return {inside = inside, escaped = escaped, hex = hex}
end

-- A value begins in `row` and is over in `after`, which has to be complete: a number ends with what
-- comes behind it.
local function values(row, after)
    on(row, SPACE, row)
    on(row, "{", OPEN_OBJECT)
    on(row, "[", OPEN_LIST)
    local text = string_states(after)
    on(row, '"', text.inside)

    local minus, zero, whole = state(), state(), state()
    local point, fraction, power, sign, digits = state(), state(), state(), state(), state()
    for _, complete in ipairs({zero, whole, fraction, digits}) do
        copy(complete, after)
    end
    on(row, "-", minus)
    for _, from in ipairs({row, minus}) do
        on(from, "0", zero)
        on(from, "123456789", whole)
    end
    on(whole, DIGITS, whole)
    for _, from in ipairs({zero, whole}) do
        on(from, ".", point)
    end
    on(point, DIGITS, fraction)
    on(fraction, DIGITS, fraction)
    for _, from in ipairs({zero, whole, fraction}) do
        on(from, "eE", power)
    end
    on(power, "+-", sign)
    for _, from in ipairs({power, sign, digits}) do
        on(from, DIGITS, digits)
    end

    local function word(from, letters)
        for i = 1, #letters do
            local target = i < #letters and state() or after
            on(from, letters:sub(i, i), target)
            from = target
        end
    end
    word(row, "true")
    word(row, "false")
    word(row, "null")
    -- No JSON, and Python reads them.
    word(row, "NaN")
    word(row, "Infinity")
    word(minus, "Infinity")
    return {point = point, power = power}
end

-- A list below the top: its elements and what comes after one.
local list_first, list_next, list_after = state(), state(), state()
on(list_after, SPACE, list_after)
on(list_after, ",", list_next)
on(list_after, "]", CLOSE)
values(list_next, list_after)
copy(list_first, list_next)
on(list_first, SPACE, list_first)
on(list_first, "]", CLOSE)

-- An object: a key or its end, a key, the colon, the value, and what comes after it.
local function object(key_states)
    local first, next_key, colon, value, after = state(), state(), state(), state(), state()
    on(after, SPACE, after)
    on(after, ",", next_key)
    on(after, "}", CLOSE)
    local number = values(value, after)
    on(colon, SPACE, colon)
    on(colon, ":", value)
    on(next_key, SPACE, next_key)
    on(next_key, '"', key_states(colon))
    copy(first, next_key)
    on(first, SPACE, first)
    on(first, "}", CLOSE)
    return {first = first, after = after, value = value, number = number}
end

local nested = object(function(colon)
    return string_states(colon).inside
end)

-- The colon behind a key of which more is wanted than that it is JSON, and its value: an event as it begins.
local function wanted(which)
    local colon, value = state(), state()
    on(colon, SPACE, colon)
    on(colon, ":", value)
    on(value, SPACE, value)
    on_range(value, 0x21, 0x7f, which)
    return colon, value
end

-- Keys are compared while they pass, however their letters are written. `keys`: each with what comes
-- after its quote.
local function compared(keys)
    return function(colon)
        local other = string_states(colon)

        -- A letter as \u006d and its like: `left` has the digits that are still to come, and where
        -- each leads; any other digit makes it another key.
        local function spell(row, place, left)
            copy(row, other.hex[place])
            local groups = {}
            for digits, target in pairs(left) do
                local digit = digits:sub(1, 1)
                groups[digit] = groups[digit] or {}
                groups[digit][digits:sub(2)] = target
            end
            for digit, group in pairs(groups) do
                local target = group[""]
                if not target then
                    target = state()
                    spell(target, place + 1, group)
                end
                on(row, digit .. digit:upper(), target)
            end
        end

        -- So much of a key has passed.
        local function after(passed)
            local row, spelled = state(), {}
            copy(row, other.inside)
            for key, ended in pairs(keys) do
                if key == passed then
                    on(row, '"', ended)
                elseif key:sub(1, #passed) == passed then
                    local letter = key:sub(#passed + 1, #passed + 1)
                    local digits = string.format("%04x", letter:byte())
                    if not spelled[digits] then
                        spelled[digits] = after(passed .. letter)
                        on(row, letter, spelled[digits])
                    end
                end
            end
            if next(spelled) then
                local escaped, digits = state(), state()
                copy(escaped, other.escaped)
                on(row, "\\", escaped)
                on(escaped, "u", digits)
                spell(digits, 1, spelled)
            end
            return row
        end
        return after("")
    end
end

-- The model's value: a string is kept, anything else is what it is elsewhere at the top.
local kept = string_states(VALUE_ENDS)
local model_colon, model_value = wanted(OTHER_VALUE)
on(model_value, '"', VALUE_BEGINS)
local model_text = kept.inside

-- What "stream_options" has.
local options = object(compared({
    include_usage = wanted(INCLUDE),
    continuous_usage_stats = wanted(CONTINUOUS),
}))

-- How many answers each prompt has: a number of which the digits are kept.
local count_colon, count_value = wanted(NO_COUNT)
on(count_value, "123456789", DIGIT)

local top = object(compared({
    model = model_colon,
    n = count_colon,
    stream = wanted(STREAM),
    stream_options = wanted(OPTIONS),
}))

local count_digits = state()
copy(count_digits, top.after)
on(count_digits, DIGITS, DIGIT)
on(count_digits, ".", top.number.point)
on(count_digits, "eE", top.number.power)

-- Around the object: a byte order mark, space, and nothing else.
local begin, blank, done = state(), state(), state()
local mark_1, mark_2 = state(), state()
on(blank, SPACE, blank)
on(blank, "{", OPEN_OBJECT)
copy(begin, blank)
on(begin, "\239", mark_1)
on(mark_1, "\187", mark_2)
on(mark_2, "\191", blank)
on(done, SPACE, done)

local mt = {__index = M}

-- A scanner for one body.
function M.new()
    return setmetatable({
        at = begin,
        depth = 0,
        -- What each bracket that is open began: 1 a list, 2 an object, 3 the top, 4 "stream_options".
        stack = ffi.new("uint8_t[?]", MAX_DEPTH + 1),
        -- The model's value while it passes, its length, and whether a string is under way.
        value = nil, length = 0, inside = false,
        -- nil: none yet; false: one that no model can have.
        model = nil,
        -- The first byte of other values, which says what they are; nil: none yet.
        stream = nil, options = nil, include = nil, continuous = nil,
        -- How many answers each prompt has.
        n = 1,
        -- Bytes in the pieces before this one, and before the bracket that ends the object.
        passed = 0, last = nil,
        -- Whether there is nothing before that.
        empty = false,
    }, mt)
end

local BACK = {[1] = list_after, [2] = nested.after, [3] = top.after, [4] = options.after}

local ESCAPED = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ["/"] = "/", ["\\"] = "\\", ['"'] = '"'}

local function utf8(code)
    if code < 0x80 then return string.char(code) end
    if code < 0x800 then return string.char(0xc0 + bit.rshift(code, 6), 0x80 + code % 64) end
    if code < 0x10000 then
        return string.char(0xe0 + bit.rshift(code, 12), 0x80 + bit.rshift(code, 6) % 64, 0x80 + code % 64)
    end
    return string.char(
        0xf0 + bit.rshift(code, 18), 0x80 + bit.rshift(code, 12) % 64,
        0x80 + bit.rshift(code, 6) % 64, 0x80 + code % 64)
end

-- What a string's text says; false: half of a surrogate pair, which no name has.
local function unescaped(text)
    if not text:find("\\", 1, true) then return text end
    local parts, i = {}, 1
    while i <= #text do
        local slash = text:find("\\", i, true)
        if not slash then
            parts[#parts + 1] = text:sub(i)
            break
        end
        parts[#parts + 1] = text:sub(i, slash - 1)
        local letter = text:sub(slash + 1, slash + 1)
        i = slash + 2
        if letter == "u" then
            local code = tonumber(text:sub(i, i + 3), 16)
            i = i + 4
            if code >= 0xd800 and code < 0xdc00 then
                local low = tonumber(text:match("^\\u(%x%x%x%x)", i) or "0", 16)
                if low < 0xdc00 or low > 0xdfff then return false end
                code = 0x10000 + (code - 0xd800) * 0x400 + (low - 0xdc00)
                i = i + 6
            elseif code >= 0xdc00 and code < 0xe000 then
                return false
            end
            parts[#parts + 1] = utf8(code)
        else
            parts[#parts + 1] = ESCAPED[letter]
        end
    end
    return table.concat(parts)
end

-- Keep bytes of the value, as long as there are few.
local function keep(self, from, count)
    self.length = self.length + count
    if self.length <= MAX_VALUE then
        self.value = self.value .. ffi.string(from, count)
    end
end

-- What has to be counted or kept. The next state, and 1 if the byte is done with.
local function event(self, which, at, p, i)
    if which == OPEN_OBJECT or which == OPEN_LIST then
        local depth = self.depth
        if depth == MAX_DEPTH then return FAILED, 1 end
        self.depth = depth + 1
        if depth == 0 then
            self.stack[1] = 3
            return top.first, 1
        end
        self.stack[depth + 1] = which == OPEN_OBJECT and 2 or 1
        return which == OPEN_OBJECT and nested.first or list_first, 1
    elseif which == CLOSE then
        local depth = self.depth - 1
        self.depth = depth
        if depth == 0 then
            self.last, self.empty = self.passed + i, at == top.first
            return done, 1
        end
        return BACK[self.stack[depth]], 1
    elseif which == VALUE_BEGINS then
        self.value, self.length, self.inside = "", 0, true
        return model_text, 1
    elseif which == OTHER_VALUE then
        -- The last of several counts, as in Python.
        self.model = false
        return top.value, 0
    elseif which == STREAM then
        self.stream = p[i]
        return top.value, 0
    elseif which == NO_COUNT then
        self.n = 1
        return top.value, 0
    elseif which == DIGIT then
        local before = at == count_digits and self.n or 0
        self.n = math.min(before * 10 + p[i] - 48, 1e6)
        return count_digits, 1
    elseif which == OPTIONS then
        self.options, self.include, self.continuous = p[i], nil, nil
        local depth = self.depth
        if p[i] ~= 123 then return top.value, 0 end
        self.depth, self.stack[depth + 1] = depth + 1, 4
        return options.first, 1
    elseif which == INCLUDE then
        self.include = p[i]
        return options.value, 0
    elseif which == CONTINUOUS then
        self.continuous = p[i]
        return options.value, 0
    end
    return top.after, 1
end

-- The next `n` bytes, at `p`. False once it is certain that this is no JSON.
function M.feed(self, p, n)
    local at, i = self.at, 0
    local kept_from = 0
    while i < n do
        local to = table_of[at + p[i]]
        if to < EVENTS then
            at = to
            i = i + 1
        else
            if to == VALUE_ENDS then
                keep(self, p + kept_from, i - kept_from)
                self.inside = false
                self.model = self.length <= MAX_VALUE and unescaped(self.value)
            end
            local step
            at, step = event(self, to, at, p, i)
            i = i + step
            if to == VALUE_BEGINS then kept_from = i end
        end
    end
    if self.inside and at ~= FAILED then keep(self, p + kept_from, n - kept_from) end
    self.at, self.passed = at, self.passed + n
    return at ~= FAILED
end

-- After the last byte: whether all of it was an object, and its model. nil: it names none; false: it is
-- no string, or one that is no name.
function M.finish(self)
    return self.at == done, self.model
end

return M
