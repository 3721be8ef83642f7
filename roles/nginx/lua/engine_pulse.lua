-- Managed by vllm-hosts. Whether an agent's engine lives, for gateways: GET /pulse.
--
-- A look at /metrics says whether a number that only the engine moves is another one than before. Where none has moved
-- for a while, one token is asked for. Looks are made on the side, one at a time for each agent however many
-- gateways ask, and an answer is what they have seen so far: nobody waits for an engine that hangs.
-- What an agent answers is data: bounded in bytes and time, and only numbers and a status are taken from it.

local ffi = require "ffi"
local ngx = ngx

local M = {}

-- Seconds. Between looks; until a look is given up; without a sign of life until a token is asked for, and between
-- two of those; until that is given up; and without a sign of life until the agent counts as dead.
local EVERY, LOOK, QUIET, TOKEN, LIFE = 0.9, 4, 3, 3, 6.5
-- Of a first answer, when nothing is known: gateways would take "not yet" for "dead".
local FIRST = 1
-- As the host's own watchdog has them.
local MOST, WIDTH, PIECE = 16777216, 4096, 65536
local PATHS = {"/v1/completions", "/v1/embeddings", "/pooling", "/classify"}

ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } vllm_hosts_time;
int clock_gettime(int clock, vllm_hosts_time *time);
]]
local time = ffi.new("vllm_hosts_time")

-- Not the time of day, which may be set.
local function now()
    ffi.C.clock_gettime(1, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- What `work` returns; nothing, if that takes longer. An agent that sends a byte now and then would never end.
local function within(seconds, work, ...)
    local working = ngx.thread.spawn(work, ...)
    local clock = ngx.thread.spawn(function() ngx.sleep(seconds) end)
    local fine, one, two, three = ngx.thread.wait(working, clock)
    ngx.thread.kill(working)
    ngx.thread.kill(clock)
    if fine then return one, two, three end
end

local function send(agent, text)
    local socket = ngx.socket.tcp()
    socket:settimeout(LOOK * 1000)
    local connected, problem = socket:connect(agent.address, agent.port)
    if not connected then return nil, problem end
    if not socket:send(text) then return nil, "closed" end
    return socket
end

-- The status of an answer, whatever else it has; nil: there is none.
local function status_of(agent, text)
    local socket = send(agent, text)
    if not socket then return nil end
    local head = socket:receive(12)
    socket:close()
    return head and tonumber(head:match("^HTTP/1%.[01] (%d%d%d)$"))
end

-- Adds up the numbers in whole lines of a text, each of which is behind a line feed.
local function add_lines(text, last, sums)
    local from = 1
    while true do
        local begins = text:find("\nvllm:", from, true)
        if not begins or begins >= last then return end
        local name = text:match("^[a-z_]+", begins + 6)
        local ends = text:find("\n", begins + 6, true)
        if name and sums[name] then
            local line = text:sub(begins + 1, math.min(ends - 1, begins + WIDTH))
            local number = tonumber(line:match("[ }]([0-9][0-9.eE+-]*)\r?$"))
            if number and number < math.huge then sums[name], sums[1] = sums[name] + number, true end
        end
        from = ends
    end
end

-- What /metrics says: "known" and its numbers, or "none"; whether requests run. nil: nothing answers, and why.
local function numbers(agent, metrics)
    local socket, problem = send(
        agent, "GET /metrics HTTP/1.0\r\nHost: vllm\r\nConnection: close\r\n\r\n")
    if not socket then return nil, problem end
    -- At 1: whether there was any.
    local sums = {false}
    for _, name in ipairs(metrics) do sums[name] = 0 end
    local rest, total, answers = "", 0, nil
    while total < MOST do
        local whole, ended, part = socket:receive(PIECE)
        local text = rest .. (whole or part or "")
        total = total + #text - #rest
        if answers == nil and #text > 12 then answers = text:find("^HTTP/1%.[01] 200[ \r]") ~= nil end
        local last = text:match(".*()\n")
        if answers and last then add_lines(text, last, sums) end
        if last then text = text:sub(last) end
        rest = text:sub(1, WIDTH)
        if ended == "closed" then break end
        if ended then return nil, ended end
        -- Others have their turn.
        ngx.sleep(0.001)
    end
    socket:close()
    if total == 0 then return nil, "closed" end
    if not answers or not sums[1] then return "none", "", false end
    local said = {}
    for i, name in ipairs(metrics) do said[i] = string.format("%.17g", sums[name]) end
    return "known", table.concat(said, ","), sums[metrics[1]] > 0
end

local function post(path, key, model)
    local body
    if path == PATHS[1] then
        body = '{"model": ' .. model .. ', "prompt": "a", "max_tokens": 1}'
    else
        body = '{"model": ' .. model .. ', "input": "a"}'
    end
    return table.concat({
        "POST ", path, " HTTP/1.0\r\nHost: vllm\r\nAuthorization: Bearer ", key,
        "\r\nContent-Type: application/json\r\nContent-Length: ", #body, "\r\nConnection: close\r\n\r\n", body,
    })
end

-- One token, of whatever the model makes: "answered" and by which path, "refused", "failed", or nil: silence.
local function token(agent, key, before)
    local paths = {before}
    for _, path in ipairs(PATHS) do
        if path ~= before then paths[#paths + 1] = path end
    end
    for _, path in ipairs(paths) do
        local status = status_of(agent, post(path, key, agent.model))
        if not status then return nil end
        if status >= 200 and status < 300 then return "answered", path end
        if status >= 500 then return "failed" end
    end
    return "refused"
end

local function healthy(agent)
    return status_of(agent, "GET /health HTTP/1.0\r\nHost: vllm\r\nConnection: close\r\n\r\n") == 200
end

-- `known`: the agents, by nginx's name for each, and the metrics.
function M.new(known)
    local seen = ngx.shared.vllm_hosts_pulse
    local metrics = {}
    for i, name in ipairs(known.metrics) do metrics[i] = name:match("^vllm:(.+)$") end

    local function age(key)
        local at = seen:get(key)
        return at and now() - at or math.huge
    end

    -- Whether it is the first of all workers to ask for this, since so many seconds. Nothing waits within.
    local function first(key, seconds)
        if age(key) < seconds or not seen:add(key .. " taken", true, 1) then return false end
        local is_first = age(key) >= seconds
        if is_first then seen:set(key, now()) end
        seen:delete(key .. " taken")
        return is_first
    end

    local function lives(name)
        seen:set(name .. " lives", now())
    end

    -- Nothing has moved, or there is nothing that could: the agent is asked itself.
    local function ask(name, agent, key, said, busy)
        if age(name .. " lives") < QUIET or not first(name .. " asked", QUIET) then return end
        if said == "none" then
            if within(TOKEN, healthy, agent) then lives(name) end
            return
        end
        local answer, path = within(TOKEN, token, agent, key, seen:get(name .. " path"))
        if answer == "answered" then
            seen:set(name .. " path", path)
            lives(name)
        elseif answer == "refused" and not busy and within(TOKEN, healthy, agent) then
            -- Such as a model for speech, of which no token can be asked.
            lives(name)
        end
    end

    local function look(premature, name, key)
        local agent = known.agents[name]
        local said, text, busy
        if not premature then said, text, busy = within(LOOK, numbers, agent, metrics) end
        seen:delete(name .. " looks")
        if premature then return end
        local moved = false
        if said == "known" then
            local before = seen:get(name .. " said")
            seen:set(name .. " said", text)
            moved = before ~= nil and before ~= text
            if moved then lives(name) end
        elseif text == "connection refused" then
            -- Nobody is there; whoever comes next is another one.
            seen:delete(name .. " lives")
            seen:delete(name .. " said")
        end
        if said and not moved then ask(name, agent, key, said, busy) end
        seen:set(name .. " known", true)
    end

    local function begin(name, key)
        if age(name .. " looks") < LOOK + 1 or not first(name .. " looked", EVERY) then return end
        seen:set(name .. " looks", now())
        if not ngx.timer.at(0, look, name, key) then seen:delete(name .. " looks") end
    end

    return function()
        local name = ngx.var.vllm_hosts_target
        local alive = false
        if known.agents[name] then
            begin(name, ngx.var.vllm_hosts_internal)
            local until_ = now() + FIRST
            while not seen:get(name .. " known") and now() < until_ do ngx.sleep(0.05) end
            alive = age(name .. " lives") < LIFE
        end
        ngx.status = alive and 200 or 503
        ngx.header["Content-Type"] = "application/json"
        ngx.print(alive and '{"status": "up"}' or '{"status": "down"}')
    end
end

return M
