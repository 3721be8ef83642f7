-- Managed by vllm-hosts. The body of a request: read in pieces wherever nginx keeps it, and with bytes added
-- to it before it goes on.

local ffi = require "ffi"

ffi.cdef [[
int open(const char *path, int flags, ...);
long pread(int file, void *buffer, size_t count, long offset);
int close(int file);
]]
local C = ffi.C
local ngx = ngx

local M = {}

-- Between two pieces others have their turn.
local PIECE = 262144
local TURN = 0.001
-- For one read and what is done with it, in which nothing waits.
local buffer = ffi.new("uint8_t[?]", PIECE)

local function feed_text(scanner, text)
    local from, bytes, length = 0, ffi.cast("const uint8_t *", text), #text
    while from < length do
        local n = math.min(PIECE, length - from)
        if not scanner:feed(bytes + from, n) then return end
        from = from + n
        if from < length then ngx.sleep(TURN) end
    end
end

-- Opened for each piece: a request that is cut off while it waits leaves nothing open.
local function feed_file(scanner, path)
    local from = 0
    while true do
        local file = C.open(path, 0)
        if file < 0 then error("cannot open a request's body") end
        local n = tonumber(C.pread(file, buffer, PIECE, from))
        C.close(file)
        if n < 0 then error("cannot read a request's body") end
        if n == 0 or not scanner:feed(buffer, n) then return end
        from = from + n
        ngx.sleep(TURN)
    end
end

-- Reads the body and feeds the scanner with it. False: it cannot be read.
function M.scan(scanner)
    -- It raises an error for a request of HTTP/2 that does not say how long it is.
    if not pcall(ngx.req.read_body) then return false end
    local text, path = ngx.req.get_body_data(), ngx.req.get_body_file()
    if text then
        feed_text(scanner, text)
    elseif path then
        feed_file(scanner, path)
    end
    return true
end

local function append_file(file, count)
    while count > 0 do
        local piece = file:read(math.min(PIECE, count))
        if not piece then error("a request's body became shorter") end
        ngx.req.append_body(piece)
        count = count - #piece
        ngx.sleep(TURN)
    end
end

-- Puts `added` between the first `at` bytes of a body that was read and the others, of `length`.
function M.insert(at, length, added)
    local text = ngx.req.get_body_data()
    if text then
        ngx.req.set_body_data(text:sub(1, at) .. added .. text:sub(at + 1))
        return
    end
    -- nginx removes the file as the new body begins. This one is closed by the collector where the request is cut off.
    local file = assert(io.open(ngx.req.get_body_file(), "rb"))
    ngx.req.init_body(PIECE)
    append_file(file, at)
    ngx.req.append_body(added)
    append_file(file, length - at)
    ngx.req.finish_body()
    file:close()
end

return M
