-- Managed by vllm-hosts. nginx runs this for a request before it goes on, for the head of its answer and each
-- piece of it, and when it is logged.
local counter = package.loaded.vllm_hosts_counter or dofile("/etc/nginx/vllm-hosts-lua/counting.lua")
return counter()
