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

-- `counter`: what reads requests' bodies. `header`: the variable of the header with the session.
function M.join(folder, counter, header)
    local scanners = dofile(folder .. "/affinity_scanner.lua")
    local scan = counter.body.scan

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
        access = function() set(nil) end,
        header_filter = check,
    }
    function counter.balance() return phases[ngx.get_phase()]() end
end

return M
