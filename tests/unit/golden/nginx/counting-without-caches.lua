-- Managed by vllm-hosts. Makes what counts tokens and keeps prefix caches apart, once in each worker.
local counter = dofile("/etc/nginx/vllm-hosts-lua/counter.lua").new("/etc/nginx/vllm-hosts-lua", {
    -- Where the agent is asked for tokens, and where it is told whose prefix cache it is.
    asked = {
        "/v1/chat/completions",
        "/v1/completions",
    },
    salted = {
    },
    -- Clients with a cache in common.
    groups = {
    },
})
package.loaded.vllm_hosts_counter = counter
return counter
