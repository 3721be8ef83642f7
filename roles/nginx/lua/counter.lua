-- Managed by vllm-hosts. Counts the tokens of a request while its answer passes, for the access log, and tells
-- the agent whose prefix cache the request is about.
--
-- vLLM says how many there were at the end of an answer, and in a stream only to those who ask. So the edge
-- asks, for each event, since a stream that is cut off has no end; and takes out again what the client did
-- not ask for. An answer that is not as expected goes on as it came, and is not counted; a request that is not
-- goes nowhere, since vLLM may understand it and would neither count it nor keep it apart.

local ffi = require "ffi"
local ngx = ngx

local M = {}

local WANTED = ',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
-- An event of a stream that is longer passes as it is.
local MAX_EVENT = 65536
-- Of one request's choices, each counts for itself; events of further ones count as one token.
local MAX_CHOICES = 8192
local TRUE, FALSE, NULL, OBJECT, LIST, ZERO, MINUS = ("tfn{[0-"):byte(1, -1)
local NAN, INFINITY = ("NI"):byte(1, -1)

local function number(text, key)
    local digits = text:match('"' .. key .. '"%s*:%s*(%d+)')
    return digits and #digits <= 12 and tonumber(digits) or nil
end

local function note(count, text)
    local input = number(text, "input_tokens")
    local read = number(text, "cache_read_input_tokens")
    if input then
        -- Anthropic's do not contain what came from the cache, or went there.
        input = input + (read or 0) + (number(text, "cache_creation_input_tokens") or 0)
    end
    count.prompt = number(text, "prompt_tokens") or input or count.prompt
    count.cached = number(text, "cached_tokens") or read or count.cached
    return number(text, "completion_tokens") or number(text, "output_tokens")
end

-- `paths`: of vLLM's, where it is asked for tokens and where it is told of a cache; `paths.groups`: of clients
-- that share one.
function M.new(folder, paths)
    local body = dofile(folder .. "/request_body.lua")
    local json = dofile(folder .. "/model_scanner.lua")
    local usage = dofile(folder .. "/usage_scanner.lua")
    local whole = usage.new(true)
    local counter = {body = body, json = json}

    -- What vLLM takes for no truth value at all, by its first byte, and refuses.
    local function refused(first)
        return first == OBJECT or first == LIST or first == NAN or first == INFINITY
    end

    -- What it takes for a true one, or may: pydantic knows "yes" and 1.
    local function is_true(first)
        return first ~= nil and first ~= FALSE and first ~= NULL and first ~= ZERO and first ~= MINUS
    end

    -- What a client wants to hear of tokens, by what was found in its request: whether at the end, and in
    -- each event. nil: it wants no stream, or what vLLM refuses.
    local function wishes(scanner)
        local options, include, each = scanner.options, scanner.include, scanner.continuous
        if refused(scanner.stream) or not is_true(scanner.stream) then return nil end
        if options and options ~= NULL and options ~= OBJECT then return nil end
        if refused(include) or refused(each) then return nil end
        return is_true(include), is_true(include) and is_true(each)
    end

    -- Whether a path of ours, /AGENT before it or not, is one of vLLM's.
    local function is_one(path, of_vllm)
        for _, one in ipairs(of_vllm) do
            if path:sub(-#one) == one then return true end
        end
        return false
    end

    -- What nobody can guess who has not the agent's key: neither another client nor this one.
    local function salt()
        local client = ngx.var.vllm_hosts_client
        local group = paths.groups[client]
        local whose = group and "group " .. group or "client " .. client
        local made = ngx.hmac_sha1(ngx.var.vllm_hosts_internal, "vllm-hosts prefix cache of " .. whose)
        return (made:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
    end

    -- Adds to a request what it lacks, as the last of its keys, which is the one that counts: whose prefix cache
    -- it is about, and where it is one for a stream, that we want to know of tokens.
    function counter.add(scanner)
        local path = ngx.var.vllm_hosts_path
        -- A form has no place for it, nor any of these paths a form.
        if not scanner.last or scanner.empty then return end
        local added = ""
        if is_one(path, paths.salted) then added = ',"cache_salt":"' .. salt() .. '"' end
        if is_one(path, paths.asked) then
            local at_end, each = wishes(scanner)
            if at_end ~= nil then
                local said = scanner.include == TRUE and scanner.continuous == TRUE
                if not said then added = added .. WANTED end
                -- A chat is one prompt, however many answers it has.
                local n = path:find("/chat/", 1, true) and math.huge or scanner.n
                ngx.ctx.vllm_hosts_asked = {at_end = at_end, each = each, n = n}
            elseif scanner.stream == ZERO or scanner.stream == MINUS then
                -- Such as 0.1e1, which is 1: nobody means that, and it would be a stream that says nothing.
                added = added .. ',"stream":false'
            end
        end
        if added ~= "" then body.insert(scanner.last, scanner.passed, added) end
    end

    -- The same for a request whose agent is known already.
    local function add_unread()
        local scanner = json.new()
        if not body.scan(scanner) then return ngx.exec("@model-length") end
        if not scanner:finish() then return ngx.exec("@model-body") end
        counter.add(scanner)
    end

    -- What is done with an answer, at its first bytes. false: nothing.
    local function begin()
        local kind = (ngx.header["Content-Type"] or ""):lower()
        local events = kind:find("^text/event%-stream") ~= nil
        if ngx.status ~= 200 or ngx.header["Content-Encoding"] then return false end
        if not events and not kind:find("^application/json") then return false end
        local asked = ngx.ctx.vllm_hosts_asked
        local count = {events = events, completion = nil, done = false}
        if asked and events and not ngx.header["Content-Length"] then
            count.held, count.passing, count.choices, count.prompts = "", false, {}, {}
            count.at_end, count.each, count.n = asked.at_end, asked.each, asked.n
        else
            count.scanner = usage.new(events)
            count.found = function(text)
                count.completion = note(count, text) or count.completion
            end
        end
        return count
    end

    local function look(count, piece)
        count.scanner:feed(ffi.cast("const uint8_t *", piece), #piece, count.found)
    end

    -- An event says what its own choice has so far, and how long that one's prompt is.
    local function add_event(count, event, said)
        local choice = tonumber(event:match('"choices":%[{"index":(%d+)') or 0)
        local prompts, before = count.prompts, count.prompt
        local completion = note(count, said)
        local prompt, place = count.prompt, math.floor(choice / count.n)
        count.prompt = before
        if choice >= MAX_CHOICES then
            count.completion = (count.completion or 0) + 1
            return
        end
        if prompt and not prompts[place] and number(said, "prompt_tokens") then
            prompts[place] = true
            count.prompt = (before or 0) + prompt
        end
        if completion then
            count.completion = (count.completion or 0) + completion - (count.choices[choice] or 0)
            count.choices[choice] = completion
        end
    end

    -- One event of a stream that we asked for usage, as the client is to get it.
    local function event_for_client(count, event)
        if not event:find('"usage"', 1, true) or not event:find("^data: ?{[^\n]*}\n\n$") then
            return event
        end
        local said, from, to
        whole:restart()
        whole:feed(ffi.cast("const uint8_t *", event), #event, function(text, comma, behind)
            said, from, to = text, comma, behind
        end)
        if not said then return event end
        if whole.empty then
            count.completion, count.done = note(count, said) or count.completion, true
            return count.at_end and event or ""
        end
        if not count.done then add_event(count, event, said) end
        if count.each or not from then return event end
        return event:sub(1, from) .. event:sub(to + 1)
    end

    -- What of a stream goes on now: whole events. The rest is of no use to a client before its end comes.
    local function take(count, piece, last)
        local text, from, parts = count.held .. piece, 1, {}
        while true do
            local _, ended = text:find("\n\n", from, true)
            if not ended then break end
            local event = text:sub(from, ended)
            if count.passing then
                count.passing = false
            else
                event = event_for_client(count, event)
            end
            parts[#parts + 1] = event
            from = ended + 1
        end
        count.held = text:sub(from)
        if last or #count.held > MAX_EVENT then
            -- A line feed at its end may be half of what ends the event.
            local keep = (not last and count.held:sub(-1) == "\n") and 1 or 0
            parts[#parts + 1] = count.held:sub(1, #count.held - keep)
            count.held, count.passing = count.held:sub(#count.held - keep + 1), true
        end
        return table.concat(parts)
    end

    local function filter()
        local ctx = ngx.ctx
        local count = ctx.vllm_hosts_count
        if count == nil then
            local fine, begun = pcall(begin)
            count = fine and begun
            ctx.vllm_hosts_count = count
        end
        if not count then return end
        local piece, last = ngx.arg[1], ngx.arg[2]
        if count.scanner then
            if piece ~= "" and not pcall(look, count, piece) then ctx.vllm_hosts_count = false end
            return
        end
        if piece == "" and not last then return end
        local held = count.held
        local fine, text = pcall(take, count, piece, last)
        if not fine then
            -- Never seen; an answer is worth more than its count.
            text = held .. piece
            ctx.vllm_hosts_count = false
        end
        if text ~= piece then ngx.arg[1] = text end
    end

    local function log()
        local count = ngx.ctx.vllm_hosts_count
        if not count then return end
        local completion = count.completion
        if count.scanner and count.events and count.scanner.deltas > 0 and (completion or 0) == 0 then
            -- It was cut off before it was said: what came is at least as many.
            completion = count.scanner.deltas
        end
        if count.prompt and not completion then completion = 0 end
        ngx.var.vllm_hosts_in_n = count.prompt
        ngx.var.vllm_hosts_hit_n = count.cached
        ngx.var.vllm_hosts_out_n = completion
    end

    -- After an interim answer, or one without a status (HTTP/0.9), nginx sends an agent's bytes as they are: whoever
    -- took it over could write headers that are not let through.
    local function check()
        if (ngx.var.upstream_status or "") == "" then return end
        if ngx.req.http_version() == 0.9 then return ngx.exit(ngx.ERROR) end
        if ngx.status < 200 then return ngx.exit(503) end
    end

    local phases = {access = add_unread, header_filter = check, body_filter = filter, log = log}
    return setmetatable(counter, {__call = function() return phases[ngx.get_phase()]() end})
end

return M
