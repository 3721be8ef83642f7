#!/bin/sh
# Managed by vllm-hosts. Rotates the edge's logs by size. Where there is little room on their disk, the
# oldest go first, and at last what is being written, since a full disk stops more than the logs.
set -eu
export LC_ALL=C
cd /var/log/vllm-hosts
# A disk that is full already must not keep us from making room.
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
        # A small one would make no room.
        if [ "$(stat -c %s -- "$log")" -gt 1048576 ]; then
            : >"$log"
            echo "little room: emptied $log"
        fi
    done
fi
[ -z "$failed" ]
