
        umask 077; log=$(mktemp /run/vllm-hosts.XXXXXX); trap 'rm -f "$log"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        ( set -e
        # A warning ends nvidia-smi with an exit code too; cards are counted all the same.
        seen=$(docker run --rm --network none --gpus '"device=0,3"'             --entrypoint nvidia-smi vllm/vllm-openai:v0.33.0 -L) || :
        echo "$seen"
        [ "$(echo "$seen" | grep -c '^GPU ')" = 2 ] || {
            echo 'the container does not see 2 GPU(s) with index 0,3'; exit 1; }
        mkdir -p /var/lib/vllm-hosts/stamps
        ( nvidia-smi --query-gpu=uuid,driver_version --format=csv,noheader | grep '^GPU-' || :; dpkg-query -W -f '${Version}\n' nvidia-container-toolkit; echo 0,3 ) 2>/dev/null >/var/lib/vllm-hosts/stamps/gpu
        ) >"$log" 2>&1 </dev/null &
        job=$!; waited=0; due=10
        # What takes no second is not waited for so long.
        for pause in 0.02 0.03 0.05 0.1 0.2 0.3 0.3; do
            kill -0 $job 2>/dev/null || break; sleep $pause
        done
        waited=1
        while kill -0 $job 2>/dev/null; do
            sleep 1; waited=$((waited + 1))
            [ $waited -ge $due ] || continue
            due=$((waited + 30))
            line=$(tail -n 1 <"$log" | tail -n 1 | tr -d '\r' | cut -c 1-100)
            echo "    running nvidia-smi in a container with GPU 0,3: $waited s, $line"
        done
        if wait $job; then exit 0; fi
        tail -n 20 "$log" >&2; exit 1
        
