-- Managed by vllm-hosts. nginx runs this for each GET /pulse of a gateway; the first one in a worker makes the rest.
local answer = package.loaded.vllm_hosts_pulse
if not answer then
    answer = dofile("/etc/nginx/vllm-hosts-lua/engine_pulse.lua").new({
        -- By nginx's name for the agent: where it is, and the model that it knows.
        agents = {
            vllm_hosts_qwen = { address = "198.18.250.10", port = 8000, model = '"qwen"' },
            vllm_hosts_coder = { address = "198.18.250.18", port = 8000, model = '"coder-14b"' },
        },
        -- What only an engine moves. The first one is of requests that run.
        metrics = { "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total" },
    })
    package.loaded.vllm_hosts_pulse = answer
end
return answer()
