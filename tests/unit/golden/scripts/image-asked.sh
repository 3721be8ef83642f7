
        umask 077; log=$(mktemp /run/vllm-hosts.XXXXXX); trap 'rm -f "$log"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        ( set -eu
            id=$(docker image inspect --format '{{.Id}}' vllm/vllm-openai:v0.33.0)
            code=0
            found=$(timeout 300 docker run --rm --network none --read-only --cap-drop ALL \
                --security-opt no-new-privileges --user 64101:64101 --pids-limit 256 \
                --workdir / --entrypoint sh vllm/vllm-openai:v0.33.0 -c '
ask='"'"'from importlib.metadata import version; print(version("vllm"))'"'"'
program=$(command -v vllm || :)
own=$([ -z "$program" ] || head -n 1 "$program" | sed -n '"'"'s/^#! *\(\/[^ ]*\).*/\1/p'"'"')
for python in $own python3 python; do
    found=$("$python" -c "$ask" 2>/dev/null) && [ -n "$found" ] && { echo "$found"; exit 0; }
done
echo unknown
') || code=$?
            # An image without a shell does not say; that Docker cannot run it is another matter.
            case $code in 0) ;; 126 | 127) found=unknown ;; *) exit 1 ;; esac
            found=$(echo "$found" | tail -n 1 | cut -c 1-100)
            mkdir -p /var/lib/vllm-hosts/stamps
            echo "$id $found" >/var/lib/vllm-hosts/stamps/image-version.new; mv /var/lib/vllm-hosts/stamps/image-version.new /var/lib/vllm-hosts/stamps/image-version
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
            echo "    checking which vLLM vllm/vllm-openai:v0.33.0 has: $waited s, $line"
        done
        if wait $job; then exit 0; fi
        tail -n 20 "$log" >&2; exit 1
        
