-- Managed by vllm-hosts. On a gateway: requests that found nobody behind HAProxy's sockets, as while it is started
-- anew, wait for it.

local ngx = ngx

local M = {}

-- Seconds that a request waits in all, between two of its looks, and that one look does for all of them.
local PATIENCE, FIRST, LAST, SHARED = 5, 0.05, 0.25, 0.05
-- nginx leads a request into ten locations at most.
local ROUNDS = 6

-- `sockets`: of each upstream that is a pool, where HAProxy listens, and whether there is one for second tries.
function M.new(sockets)
    local looks = {}

    local function listening(path)
        local now, look = ngx.now(), looks[path]
        if look and now - look.at < SHARED then return look.found end
        look = {at = now, found = look and look.found or false}
        looks[path] = look
        local socket = ngx.socket.tcp()
        socket:settimeout(1000)
        look.found = socket:connect("unix:" .. path) ~= nil
        if look.found then socket:close() end
        return look.found
    end

    local function wait(path, since)
        local pause = FIRST
        while not listening(path) do
            if ngx.now() - since > PATIENCE then return false end
            ngx.sleep(pause * (0.5 + math.random()))
            pause = math.min(LAST, 2 * pause)
        end
        return true
    end

    -- How often it was sent, or a part of it, and whether the last one to get it has said anything. A connection that
    -- could not be made has carried nothing.
    local function tries()
        local sent, said = 0, nil
        for bytes in (ngx.var.upstream_bytes_sent or ""):gmatch("%d+") do
            if bytes ~= "0" then sent = sent + 1 end
        end
        for bytes in (ngx.var.upstream_bytes_received or ""):gmatch("%d+") do said = bytes ~= "0" end
        return sent, said
    end

    local function give_up()
        -- It is nginx's own answer, and has a head, too.
        ngx.var.vllm_hosts_replaced = "1"
        return ngx.exec("@error503")
    end

    -- Before a request goes where another one of it could not: once more where nobody got it, and to another agent
    -- where one did and said nothing. Never a third time.
    local function again(target, pool)
        local sent, said = tries()
        if said ~= false or sent > (pool.again and 1 or 0) then return give_up() end
        local since, rounds = (ngx.var.vllm_hosts_waits):match("^(%S+) (%d+)$")
        since, rounds = tonumber(since) or ngx.now(), (tonumber(rounds) or 0) + 1
        ngx.var.vllm_hosts_waits = string.format("%.3f %d", since, rounds)
        looks[pool.path] = {at = ngx.now(), found = false}
        if rounds > ROUNDS or not wait(pool.path, since) then return give_up() end
        ngx.var.vllm_hosts_once = sent == 0 and target or target .. ".again"
    end

    return function()
        local target = ngx.var.vllm_hosts_target
        local pool = sockets[target]
        if not ngx.is_subrequest then return again(target, pool) end
        -- Whether an agent lives. Who was asked already is not asked again.
        if (ngx.var.upstream_status or "") ~= "" then return ngx.exit(503) end
        wait(pool.path, ngx.now())
    end
end

return M
