-- Managed by vllm-hosts. Which agent a request is for, by the model that its body names; and the list
-- of models that a key may use. Who a key belongs to, and what it may use, nginx has in its own maps.

local ngx = ngx

local M = {}

-- `names`: each a list of the model's name and the agents that answer to it. `tokens`: what counts them.
function M.new(folder, names, tokens)
    -- One of each is enough for a worker.
    local body = tokens and tokens.body or dofile(folder .. "/request_body.lua")
    local json = tokens and tokens.json or dofile(folder .. "/model_scanner.lua")
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
        if not body.scan(scanner) then return ngx.exec("@model-length") end
        local whole, name = scanner:finish()
        if not whole then return ngx.exec("@model-body") end
        if name == nil or name == "" then return ngx.exec("@model-missing") end
        if not name or not agents_of[name] then return ngx.exec("@model-unknown") end
        if not choose(name) then return ngx.exec("@error403") end
        ngx.var.vllm_hosts_chosen = name
        if tokens then tokens.add(scanner) end
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
