-- Managed by vllm-hosts. nginx runs this for a request before it goes on, for each piece of its answer, and
-- when it is logged; the first one in a worker makes the rest.
local counter = package.loaded.vllm_hosts_counter
if not counter then
    counter = dofile("/etc/nginx/vllm-hosts-lua/counter.lua").new("/etc/nginx/vllm-hosts-lua")
    package.loaded.vllm_hosts_counter = counter
end
return counter()
