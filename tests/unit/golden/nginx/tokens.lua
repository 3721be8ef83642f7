-- Managed by vllm-hosts. nginx runs this for a request before it goes on, for each piece of its answer, and
-- when it is logged.
local counter = package.loaded.vllm_hosts_counter or dofile("/etc/nginx/vllm-hosts-lua/counting.lua")
return counter()
