#!/bin/sh
# Managed by vllm-hosts. Rotates the edge's logs by size. If their disk is short of space, the oldest
# are removed first, and the current one last, since a full disk stops more than the logs.
set -eu
export LC_ALL=C
cd /var/log/vllm-hosts
# A disk that is already full must not keep us from making room.
failed=
logrotate --state /var/lib/logrotate/vllm-hosts-edge /etc/vllm-hosts/edge-logs.conf || failed=yes
short() { # kilobytes
    [ "$(df -P -k . | awk 'NR == 2 { print $4 }')" -lt 1048576 ]
}
while short; do
    oldest=$(ls -1tr -- *.log.* 2>/dev/null | head -n 1)
    [ -n "$oldest" ] || break
    rm -f -- "$oldest"
    echo "little room: removed $oldest"
done
if short; then
    for log in *.log; do
        # Removing a small one would not help.
        if [ "$(stat -c %s -- "$log")" -gt 1048576 ]; then
            : >"$log"
            echo "little room: emptied $log"
        fi
    done
fi
[ -z "$failed" ]
