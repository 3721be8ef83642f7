-- Managed by vllm-hosts. nginx runs this for a request whose body nobody reads, and for the head of each answer.
local counter = package.loaded.vllm_hosts_counter or dofile("/etc/nginx/vllm-hosts-lua/counting.lua")
return counter.balance()
