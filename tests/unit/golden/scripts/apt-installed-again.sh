set -e;   tried=0; ( :; brought() { # LINE...: of ours from now on
        (umask 022; mkdir -p /var/lib/vllm-hosts)
        { cat /var/lib/vllm-hosts/manifest 2>/dev/null || :; printf '%s\n' "$@"; } |
            LC_ALL=C sort -u >/var/lib/vllm-hosts/manifest.new && sync /var/lib/vllm-hosts/manifest.new &&
            mv -fT /var/lib/vllm-hosts/manifest.new /var/lib/vllm-hosts/manifest
    }
brought 'package c'; DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install --no-install-recommends --allow-downgrades --allow-change-held-packages c || { ls /var/lib/dpkg/updates 2>/dev/null | grep -q '^[0-9]' && echo 'finishing what was interrupted' && DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a && DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install --no-install-recommends --allow-downgrades --allow-change-held-packages c; } || exit 1 ) & wait $! || tried=$?; [ $tried = 0 ] || { echo 'once more, with new lists'; apt_free() { # until nobody reads the lists, or for ten minutes
        waited=0
        while [ -e "$1" ] && pid=$(awk -v inode="$(stat -c %i "$1")" \
            '$4 == "WRITE" && $6 ~ ":" inode "$" { print $5; exit }' /proc/locks) && [ -n "$pid" ]
        do
            who=$(tr -c '[:alnum:]._\n-' '?' 2>/dev/null <"/proc/$pid/comm" | head -n 1)
            [ $waited -lt "$2" ] || {
                echo "apt's lists are locked by $who (pid $pid) for $waited s; wait until it has" \
                    "ended, then run this again"; exit 1; }
            [ $((waited % 30)) != 0 ] || echo "waiting for $who (pid $pid), which has apt's lists"
            sleep 2; waited=$((waited + 2))
        done
    }; apt_free /var/lib/apt/lists/lock 600; DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold update; :; brought() { # LINE...: of ours from now on
        (umask 022; mkdir -p /var/lib/vllm-hosts)
        { cat /var/lib/vllm-hosts/manifest 2>/dev/null || :; printf '%s\n' "$@"; } |
            LC_ALL=C sort -u >/var/lib/vllm-hosts/manifest.new && sync /var/lib/vllm-hosts/manifest.new &&
            mv -fT /var/lib/vllm-hosts/manifest.new /var/lib/vllm-hosts/manifest
    }
brought 'package c'; DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install --no-install-recommends --allow-downgrades --allow-change-held-packages c || { ls /var/lib/dpkg/updates 2>/dev/null | grep -q '^[0-9]' && echo 'finishing what was interrupted' && DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a && DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install --no-install-recommends --allow-downgrades --allow-change-held-packages c; } || exit 1; }
