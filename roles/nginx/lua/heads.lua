-- Managed by vllm-hosts. nginx runs this for the head of each answer that goes to a gateway.
--
-- After an interim answer, or one without a status (HTTP/0.9), nginx sends an agent's bytes as they are: whoever
-- took it over could write what HAProxy takes for the answer to another request.

local ngx = ngx

if (ngx.var.upstream_status or "") == "" then return end
if ngx.req.http_version() == 0.9 then return ngx.exit(ngx.ERROR) end
if ngx.status < 200 then return ngx.exit(503) end
