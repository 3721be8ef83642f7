-- Managed by vllm-hosts. nginx runs this for each response that is to be made for a gateway.
local name = package.loaded.vllm_hosts_naming
if not name then
    name = dofile("/etc/nginx/vllm-hosts-lua/naming.lua").new("/etc/nginx/vllm-hosts-lua")
    package.loaded.vllm_hosts_naming = name
end
return name()
