
        work=$(mktemp -d /run/vllm-hosts.XXXXXX 2>/dev/null || mktemp -d) || exit 1
        trap 'rm -rf "$work"' EXIT; trap 'exit 1' HUP INT TERM PIPE
        mkdir "$work/ask" "$work/said" "$work/well" || exit 1
        base64 -d | tar -xzm -f - -C "$work/ask" || exit 1
        ls "$work/ask" | xargs -P 4 -n 1 sh -c 'timeout -k 2 20 sh "$0/ask/$1" </dev/null 2>/dev/null >"$0/said/$1" && mv "$0/said/$1" "$0/well/$1"' "$work" || :
        for answer in "$work"/well/*; do
            [ ! -f "$answer" ] || {
                printf '%s %s\n' "${answer##*/}" "$(stat -c %s "$answer")"; cat "$answer"
            }
        done | gzip -c | base64
    
