
        umask 077; log=$(mktemp /run/vllm-hosts.XXXXXX); trap 'rm -f "$log"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        ( make
        ) >"$log" 2>&1 </dev/null &
        job=$!; waited=0; due=5
        # What takes no second is not waited for so long.
        for pause in 0.02 0.03 0.05 0.1 0.2 0.3 0.3; do
            kill -0 $job 2>/dev/null || break; sleep $pause
        done
        waited=1
        while kill -0 $job 2>/dev/null; do
            sleep 1; waited=$((waited + 1))
            [ $waited -ge $due ] || continue
            due=$((waited + 30))
            line=$(head -n 1 <"$log" | tail -n 1 | tr -d '\r' | cut -c 1-100)
            echo "    working: $waited s, $line"
        done
        if wait $job; then exit 0; fi
        tail -n 3 "$log" >&2; exit 1
        
