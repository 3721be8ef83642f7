set -eu; umask 077; cd /etc/nginx/vllm-hosts
trap 'rm -f internal.map.new targets.map.new' EXIT
{ cat; grep -v '^vllm_hosts_qwen ' internal.map || :; } | LC_ALL=C sort >internal.map.new
{ :; grep -sv '^qwen ' targets.map || :; } >targets.map.new
mv -f internal.map.new internal.map; mv -f targets.map.new targets.map
nginx -t -q
if systemctl -q is-active nginx.service; then
    master=$(systemctl show -p MainPID --value nginx.service)
    workers=$(cat /proc/$master/task/$master/children)
    systemctl reload nginx.service
    until=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt "$until" ]; do
        old=
        for worker in $workers; do
            # A worker that finishes what it has says so in its name.
            name=$(tr -d '\0' 2>/dev/null </proc/$worker/cmdline) || name=
            case "$name" in
                *'shutting down'*) ;;
                *'worker process'*) old=yes ;;
            esac
        done
        [ -n "$old" ] || break
        sleep 0.05
    done
    [ -z "$old" ] || { echo 'nginx does not take up its new configuration'; exit 1; }
fi
