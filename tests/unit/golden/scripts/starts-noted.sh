
        at=$(docker inspect --format '{{.State.StartedAt}}' qwen) &&
            at=$(date -d "$at" +%s) && mkdir -p /var/lib/vllm-hosts/starts &&
            echo $(($(date +%s) - at)) >/var/lib/vllm-hosts/starts/qwen
        at=$(docker inspect --format '{{.State.StartedAt}}' coder) &&
            at=$(date -d "$at" +%s) && mkdir -p /var/lib/vllm-hosts/starts &&
            echo $(($(date +%s) - at)) >/var/lib/vllm-hosts/starts/coder
