
        set -eu; umask 077
        work=$(mktemp -d /run/vllm-hosts-look.$$.XXXXXX)
        # Of what is mounted below it in the namespace, nothing is to be seen or removed here.
        trap 'rm -rf --one-file-system "$work"' EXIT; trap 'exit 1' HUP INT TERM PIPE
        cd "$work"; mkdir new was tree
        base64 -d | tar -x -p -f - -C new
        # nginx makes this file even where it is only asked.
        [ -e /run/nginx.pid ] || made=yes
        code=0
        unshare -m --propagation private sh -eu -c '
        mount --rbind /etc/nginx was && cp -as "$PWD/was/." tree/ || exit 77
        cp -a --remove-destination new/etc/nginx/. tree/
        rm -f tree/b.conf; mkdir -p tree/vllm-hosts-trial
        mount --bind tree /etc/nginx || exit 77
        nginx -t -q -c /etc/nginx/nginx.conf || exit 1
    ' </dev/null >said 2>&1 || code=$?
        [ -z "${made:-}" ] || [ -s /run/nginx.pid ] || rm -f /run/nginx.pid
        [ $code -ne 0 ] || exit 0
        # 77, or unshare's own: it may not be allowed, as in some containers, or not be there.
        [ $code -ne 127 ] && ! grep -q '^unshare:' said || code=77
        [ $code -ne 77 ] || echo vllm-hosts-unasked
        cat said >&2; exit 1
        
