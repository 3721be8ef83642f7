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

-- `counter`: what reads requests' bodies. `header`: the variable of the header with the session. `sockets`: HAProxy's.
function M.join(folder, counter, header, sockets)
    local scanners = dofile(folder .. "/affinity_scanner.lua")
    local wait = dofile(folder .. "/waiting.lua").new(sockets)
    local scan, add = counter.body.scan, counter.add

    function counter.add(scanner)
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
        if session and session ~= "" then
            set(nil)
            return scan(scanner)
        end
        local beginning = scanners.new()
        local both = {feed = function(_, p, n)
            beginning:feed(p, n)
            return scanner:feed(p, n)
        end}
        local read = scan(both)
        set(beginning:finish())
        return read
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
        access = function() set(nil) end,
        header_filter = check,
    }
    function counter.balance() return phases[ngx.get_phase()]() end
end

return M
