-- Managed by vllm-hosts. Which agent a request is for, by the model that its body names; and the list
-- of models that a key may use. Who a key belongs to, and what it may use, nginx has in its own maps.

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
-- For one read and its scan, in which nothing waits.
local buffer = ffi.new("uint8_t[?]", PIECE)

-- Feeds the scanner with a body that nginx keeps in memory.
local function feed_text(scanner, text)
    local from, bytes, length = 0, ffi.cast("const uint8_t *", text), #text
    while from < length do
        local n = math.min(PIECE, length - from)
        if not scanner:feed(bytes + from, n) then return end
        from = from + n
        if from < length then ngx.sleep(TURN) end
    end
end

-- And with one that nginx has written to a file. Opened for each piece: a request that is cut off while
-- it waits leaves nothing open.
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

-- `names`: each a list of the model's name and the agents that answer to it.
function M.new(folder, names)
    local json = dofile(folder .. "/model_scanner.lua")
    local form = dofile(folder .. "/form_scanner.lua")
    local agents_of, turns = {}, {}
    for _, entry in ipairs(names) do
        agents_of[entry.name] = entry.agents
        turns[entry.name] = 0
    end

    local function may_use(agent)
        ngx.var.vllm_hosts_agent = agent
        return ngx.var.vllm_hosts_scope_refused == "0"
    end

    -- One of the agents that answer to this name, in turn; false: this key may use none of them.
    local function choose(name)
        local agents = agents_of[name]
        local turn = turns[name] + 1
        turns[name] = turn
        for i = 1, #agents do
            local agent = agents[(turn + i) % #agents + 1]
            if may_use(agent) then return agent end
        end
        return false
    end

    local function named_by_body()
        local content_type = ngx.var.http_content_type or ""
        local scanner
        if content_type:lower():find("^%s*multipart/form%-data") then
            scanner = form.new(content_type)
            if not scanner then return ngx.exec("@model-body") end
        else
            scanner = json.new()
        end
        -- It raises an error for a request of HTTP/2 that does not say how long it is.
        if not pcall(ngx.req.read_body) then return ngx.exec("@model-length") end
        local text, path = ngx.req.get_body_data(), ngx.req.get_body_file()
        if text then
            feed_text(scanner, text)
        elseif path then
            feed_file(scanner, path)
        end
        local whole, name = scanner:finish()
        if not whole then return ngx.exec("@model-body") end
        if name == nil or name == "" then return ngx.exec("@model-missing") end
        if not name or not agents_of[name] then return ngx.exec("@model-unknown") end
        if not choose(name) then return ngx.exec("@error403") end
    end

    local function listed()
        local models = {}
        for _, entry in ipairs(names) do
            for _, agent in ipairs(entry.agents) do
                if may_use(agent) then
                    models[#models + 1] = entry.model
                    break
                end
            end
        end
        ngx.var.vllm_hosts_agent = ""
        ngx.header["Content-Type"] = "application/json"
        ngx.print('{"object": "list", "data": [' .. table.concat(models, ", ") .. "]}")
    end

    -- nginx asks in one of three locations: for the list, for a model by its name, or for a body's.
    return function()
        if ngx.get_phase() == "content" then return listed() end
        local name = ngx.var.vllm_hosts_named
        if not name or name == "" then return named_by_body() end
        local agent = choose(name)
        -- Nothing has counted this request yet; what refuses it does.
        if not agent then return ngx.exec("/./403") end
        return ngx.exec("/./model/" .. agent)
    end
end

return M
