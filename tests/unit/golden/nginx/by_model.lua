-- Managed by vllm-hosts. nginx runs this for each request; the first one in a worker makes the rest.
local chooser = package.loaded.vllm_hosts_chooser
if not chooser then
    local counter = package.loaded.vllm_hosts_counter or dofile("/etc/nginx/vllm-hosts-lua/counting.lua")
    chooser = dofile("/etc/nginx/vllm-hosts-lua/chooser.lua").new("/etc/nginx/vllm-hosts-lua", {
        {
            name = "qwen",
            agents = { "qwen" },
            model = '{"id": "qwen", "object": "model", "created": 0, "owned_by": "vllm"}',
        },
        {
            name = "coder-14b",
            agents = { "coder" },
            model = '{"id": "coder-14b", "object": "model", "created": 0, "owned_by": "vllm"}',
        },
    }, counter)
    package.loaded.vllm_hosts_chooser = chooser
end
return chooser()
