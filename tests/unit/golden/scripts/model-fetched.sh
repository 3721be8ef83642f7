
        set -eu
        docker rm --force vllm-hosts-fetch >/dev/null 2>&1 || :
        docker network inspect vllm-fetch >/dev/null 2>&1 || docker network create \
            --driver bridge --opt com.docker.network.bridge.name=vllm-fetch vllm-fetch >/dev/null
        trap 'docker network rm vllm-fetch >/dev/null 2>&1 || :' EXIT
        (umask 022; mkdir -p /var/lib/vllm-hosts/models)
        HF_TOKEN=$(sed -n 's/^HF_TOKEN=//p' /opt/vllm/.env); export HF_TOKEN
        set --
        [ ! -s /etc/ssl/certs/ca-certificates.crt ] || set -- --env SSL_CERT_FILE=/run/host-cas.pem \
            --env REQUESTS_CA_BUNDLE=/run/host-cas.pem \
            --mount type=bind,source=/etc/ssl/certs/ca-certificates.crt,target=/run/host-cas.pem,readonly
        code=0
        printf %s PROGRAM |
            docker run --rm --interactive --init --pull never --name vllm-hosts-fetch --network vllm-fetch --pids-limit 1024 --user 64102:64101 --cap-drop ALL --security-opt no-new-privileges:true --read-only --tmpfs /tmp \
            --mount type=bind,source=/var/lib/vllm/huggingface,target=/cache/huggingface \
            --mount type=bind,source=/etc/hosts,target=/etc/hosts,readonly --entrypoint python3 --env DO_NOT_TRACK=1 --env HF_HOME=/cache/huggingface --env HF_HUB_DISABLE_PROGRESS_BARS=1 --env HF_HUB_DISABLE_TELEMETRY=1 --env HF_HUB_DOWNLOAD_TIMEOUT=30 --env HF_HUB_ETAG_TIMEOUT=30 --env HOME=/tmp --env NVIDIA_VISIBLE_DEVICES=void --env HF_TOKEN "$@" vllm/vllm-openai:v0.33.0 - org/m --revision main --workers 8 --cache /var/lib/vllm --distrust >/var/lib/vllm-hosts/models/org--m@main-01a33cd91f.new || code=$?
        if [ $code -ne 0 ]; then
            rm -f /var/lib/vllm-hosts/models/org--m@main-01a33cd91f.new
            [ $code -eq 3 ] || echo "the download of org/m ended with $code;"                 "what came so far is kept, run again"
            exit 1
        fi
        mv /var/lib/vllm-hosts/models/org--m@main-01a33cd91f.new /var/lib/vllm-hosts/models/org--m@main-01a33cd91f
    
