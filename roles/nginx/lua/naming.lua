-- Managed by vllm-hosts. Behind gateways: the identifier of a response says which agent made it, so that a gateway finds
-- it again.

local ngx = ngx

local M = {}

function M.new(folder)
    -- A body of its own: what counts on a gateway reads more from it.
    local body = dofile(folder .. "/request_body.lua")
    local counter = package.loaded.vllm_hosts_counter
    local json = counter and counter.json or dofile(folder .. "/model_scanner.lua")

    return function()
        local scanner = json.new()
        -- A gateway has read it already.
        if not body.scan(scanner) or not scanner:finish() then return ngx.exec("/./400") end
        if scanner.empty then return end
        -- The last of its keys is the one that counts: vLLM takes this identifier, and none of the client's.
        local id = "resp_" .. ngx.var.vllm_hosts_maker .. ngx.var.request_id
        body.insert(scanner.last, scanner.passed, ',"request_id":"' .. id .. '"')
    end
end

return M
