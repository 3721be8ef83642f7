-- Managed by vllm-hosts. On a gateway: by what HAProxy chooses the agent, and what becomes of its refusals.

local ngx = ngx

local M = {}

-- What balancing goes by: a session that the client names, or the beginning of its prompt. Other requests go anywhere.
local function key(session, number)
    local client = ngx.var.vllm_hosts_client
    if session and session ~= "" then return ngx.md5(client .. "\n" .. session) end
    if number then return client .. ":" .. number end
    return nil
end

-- What is counted of a request, which nginx forgets where it goes to another location.
local function kept(asked)
    return string.format("%s %s %s", asked.at_end, asked.each, asked.n == math.huge and "any" or asked.n)
end

local function restore()
    local counts = ngx.var.vllm_hosts_counts
    if counts == "" then
        ngx.ctx.vllm_hosts_count = false
        return
    end
    local at_end, each, n = counts:match("^(%S+) (%S+) (%S+)$")
    if not n then return end
    ngx.ctx.vllm_hosts_asked = {at_end = at_end == "true", each = each == "true", n = tonumber(n) or math.huge}
end

-- As a host names its responses: an agent's sixteen digits, and those of one response.
local MADE = "^resp_(" .. ("[0-9a-f]"):rep(16) .. ")" .. ("[0-9a-f]"):rep(32) .. "$"
local RESPONSES = "/v1/responses"

-- `counter`: what reads requests' bodies. `header`: the variable of the header with the session. `sockets`: HAProxy's.
-- `makers`: of each agent that may have made a response, by which names it is asked.
function M.join(folder, counter, header, sockets, makers)
    local beginnings = dofile(folder .. "/affinity_scanner.lua")
    local links = dofile(folder .. "/link_scanner.lua")
    local wait = dofile(folder .. "/waiting.lua").new(sockets)
    local scan, add = counter.body.scan, counter.add

    -- Whether whoever made it is gone. A body is not to be sent for that: HAProxy would answer before it had read all of
    -- it, which nginx takes for a connection that broke.
    local function gone()
        local pool, socket = sockets[ngx.var.vllm_hosts_target], ngx.socket.tcp()
        socket:settimeout(2000)
        -- Where nobody listens, the request waits for somebody.
        if not socket:connect("unix:" .. pool.path) then return false end
        socket:send("HEAD " .. ngx.var.vllm_hosts_way .. " HTTP/1.1\r\nHost: vllm\r\nConnection: close\r\n"
            .. "X-Vllm-Hosts-Made-By: " .. ngx.var.vllm_hosts_made_by .. "\r\n\r\n")
        local line = socket:receive()
        socket:close()
        return line and line:find("^HTTP/1.%d 404 ") ~= nil
    end

    local function check_made()
        if ngx.var.vllm_hosts_made_by ~= "" and gone() then return ngx.exec("@model-response") end
    end

    function counter.add(scanner)
        check_made()
        add(scanner)
        local asked = ngx.ctx.vllm_hosts_asked
        if asked then ngx.var.vllm_hosts_counts = kept(asked) end
    end

    local function set(number)
        local found = key(ngx.var[header], number)
        if found then ngx.var.vllm_hosts_affinity = found end
    end

    -- Each body that is read for something else is read for this in the same pass.
    function counter.body.scan(scanner)
        local session = ngx.var[header]
        local beginning = not (session and session ~= "") and beginnings.new()
        local link = ngx.var.vllm_hosts_path:sub(-#RESPONSES) == RESPONSES and links.new()
        local all = {feed = function(_, p, n)
            if beginning then beginning:feed(p, n) end
            if link then link:feed(p, n) end
            return scanner:feed(p, n)
        end}
        local read = scan(all)
        set(beginning and beginning:finish())
        local id = link and link:finish()
        -- HAProxy knows whom it balances to; it has nobody by the name of "none".
        if id then ngx.var.vllm_hosts_made_by = id:match(MADE) or "none" end
        return read
    end

    -- A response by its identifier: only who made it has it, whatever else serves the model.
    local function stored(id)
        local var, maker = ngx.var, id:match(MADE)
        local fixed, may_use = var.vllm_hosts_agent, nil
        for _, agent in ipairs(maker and makers[maker] or {}) do
            if fixed == "" or fixed == agent then
                var.vllm_hosts_agent = agent
                may_use = var.vllm_hosts_scope_refused == "0"
                if may_use then break end
            end
        end
        if may_use == nil then return ngx.exec("@model-response") end
        if not may_use then return ngx.exec("@error403") end
        var.vllm_hosts_made_by = maker
        check_made()
    end

    -- HAProxy's own answers, and those of a host whose agent is gone: the client gets ours, with Retry-After.
    local function check()
        if ngx.is_subrequest then return end
        -- Of several tries, the last.
        local status = (ngx.var.upstream_status or ""):match("%d+$")
        if ngx.var.vllm_hosts_replaced == "" and (status == "502" or status == "503" or status == "504") then
            -- The answer in its place has a head, too.
            ngx.var.vllm_hosts_replaced = "1"
            return ngx.exit(503)
        end
        return counter()
    end

    local phases = {
        rewrite = function()
            restore()
            return wait()
        end,
        access = function()
            set(nil)
            local id = ngx.var.vllm_hosts_id
            if id and id ~= "" then return stored(id) end
        end,
        header_filter = check,
    }
    function counter.balance() return phases[ngx.get_phase()]() end
end

return M
