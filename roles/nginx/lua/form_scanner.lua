-- Managed by vllm-hosts. Finds the field "model" of a form (multipart/form-data) that comes in pieces.
--
-- What lies between two delimiters is skipped by memmem, so that no text of a file becomes a Lua string.

local ffi = require "ffi"

ffi.cdef [[
void *memmem(const void *haystack, size_t length, const void *needle, size_t size);
]]
local C = ffi.C

local M = {}

M.PIECE = 262144
local MAX_HEAD, MAX_VALUE = 8192, 2048
-- Of a part's disposition; clients send two or three.
local MAX_PARAMETERS = 16
-- What was left of the piece before, and the piece. For one call at a time: nothing waits within one.
local buffer = ffi.new("uint8_t[?]", M.PIECE + MAX_HEAD + 1024)

local SKIPPED, DELIMITED, HEAD, VALUE, DONE, FAILED = 1, 2, 3, 4, 5, 6

local mt = {__index = M}

-- A scanner for one form; nil: the type names no delimiter.
function M.new(content_type)
    local boundary = content_type:match('[;%s][bB][oO][uU][nN][dD][aA][rR][yY]="([^"]+)"')
        or content_type:match('[;%s][bB][oO][uU][nN][dD][aA][rR][yY]=([^;,%s"]+)')
    if not boundary or #boundary > 200 then return nil end
    return setmetatable({
        at = SKIPPED,
        delimiter = "\r\n--" .. boundary,
        -- The first delimiter may be at the very beginning, without a line before it.
        held = "\r\n",
        -- nil: none yet; false: more than one, or one that is no name.
        model = nil,
    }, mt)
end

local function find(from, length, text)
    if length < #text then return nil end
    local found = C.memmem(buffer + from, length, text, #text)
    if found == nil then return nil end
    return tonumber(ffi.cast("uint8_t *", found) - buffer)
end

-- Whether a disposition is that of the field.
local function names_model(line)
    local at, name = line:find(";", 1, true), nil
    for _ = 1, MAX_PARAMETERS do
        local _, last, key, value = line:find('^%s*;%s*([%w%*%-]+)%s*=%s*("[^"]*")', at)
        if not last then
            _, last, key, value = line:find('^%s*;%s*([%w%*%-]+)%s*=%s*([^%s;"]+)', at)
        end
        if not last then break end
        key = key:lower()
        if key == "filename" or key == "filename*" then return false end
        if key == "name" then name = value:gsub('"', "") end
        at = last + 1
    end
    -- Two patterns: in one, each blank would be tried as the end of the first run of them.
    return name == "model" and (line:find("^%s*$", at) or line:find("^%s*;%s*$", at)) ~= nil
end

-- Whether a part's head is that of the field; nil: it has two dispositions, of which parsers take
-- the first or the last.
local function is_model(head)
    local answer
    for line in head:gmatch("[^\r\n]+") do
        local start = line:lower()
        if start:find("^content%-disposition%s*:") then
            if answer ~= nil then return nil end
            answer = start:find("^content%-disposition:%s*form%-data%s*;") ~= nil and names_model(line)
        end
    end
    return answer or false
end

-- Each reads from `from` on, with `left` bytes to go. How many it is done with; nil: it needs more.
local steps = {}

steps[SKIPPED] = function(self, from, left)
    local found = find(from, left, self.delimiter)
    if found then
        self.at = DELIMITED
        return found - from + #self.delimiter
    end
    -- All but what may be the beginning of one.
    return math.max(left - #self.delimiter + 1, 0), true
end

steps[DELIMITED] = function(self, from, left)
    if left < 2 then return nil end
    local one, two = buffer[from], buffer[from + 1]
    if one == 45 and two == 45 then
        self.at = DONE
    elseif one == 13 and two == 10 then
        -- Which is the beginning of the blank line where a part has no head.
        self.at = HEAD
        return 0
    else
        self.at = FAILED
    end
    return 2
end

steps[HEAD] = function(self, from, left)
    local found = find(from, left, "\r\n\r\n")
    local length = found and found - from or left
    if length > MAX_HEAD then
        self.at = FAILED
        return 0
    end
    if not found then return nil end
    local head = ffi.string(buffer + from, length)
    if head:find(self.delimiter, 1, true) then
        self.at = FAILED
        return 0
    end
    local model = is_model(head)
    if model == nil then
        self.at = FAILED
        return 0
    end
    self.at = model and VALUE or SKIPPED
    -- The line's end stays: it may be the beginning of the delimiter after an empty part.
    return length + 2
end

steps[VALUE] = function(self, from, left)
    local found = find(from, left, self.delimiter)
    -- With the line's end before it.
    local length = found and found - from or left - #self.delimiter
    if length > MAX_VALUE + 2 then
        self.at = FAILED
        return 0
    end
    if not found then return nil end
    if self.model == nil then
        self.model = length > 2 and ffi.string(buffer + from + 2, length - 2) or ""
    else
        self.model = false
    end
    self.at = DELIMITED
    return length + #self.delimiter
end

-- The next `n` bytes, at `p`. False once it is certain that this is no form.
function M.feed(self, p, n)
    local held = #self.held
    ffi.copy(buffer, self.held, held)
    ffi.copy(buffer + held, p, n)
    local from, to = 0, held + n
    while self.at < DONE do
        local used, wait = steps[self.at](self, from, to - from)
        from = from + (used or 0)
        if not used or wait then break end
    end
    self.held = self.at < DONE and ffi.string(buffer + from, to - from) or ""
    return self.at ~= FAILED
end

-- After the last byte: whether all of it was a form, and its model, as the other scanner says it.
function M.finish(self)
    return self.at == DONE, self.model
end

return M
