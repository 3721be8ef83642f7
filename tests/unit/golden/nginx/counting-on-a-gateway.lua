-- Managed by vllm-hosts. Makes what counts tokens and keeps prefix caches apart, once in each worker.
local counter = dofile("/etc/nginx/vllm-hosts-lua/counter.lua").new("/etc/nginx/vllm-hosts-lua", {
    -- Where the agent is asked for tokens, and where it is told whose prefix cache it is.
    asked = {
        "/v1/chat/completions",
        "/v1/completions",
    },
    salted = {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
    },
    -- Clients with a cache in common.
    groups = {
    },
})
-- What agents are chosen by, unless the client names a session.
dofile("/etc/nginx/vllm-hosts-lua/balancing.lua").join("/etc/nginx/vllm-hosts-lua", counter, "http_x_session_id", {
    -- Where HAProxy listens for each pool, and whether it does so for second tries.
    ["vllm_hosts_qwen"] = { path = "/run/vllm-hosts-balancer/in.qwen.sock", again = false },
    ["vllm_hosts_coder"] = { path = "/run/vllm-hosts-balancer/in.coder.sock", again = false },
}, {
    -- Who made a response, as its identifier says, and which agents ask there.
    ["8440f0a3b0fb0d6d"] = { "qwen" },
    ["a89dfcab9ebc923c"] = { "coder" },
})
package.loaded.vllm_hosts_counter = counter
return counter
