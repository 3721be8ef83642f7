# One look at a host for `vllm-hosts doctor`. Changes nothing. Before it stand, as shell variables:
# directory, cache, image, deployed (a file), agents, gpu_agents, folders (models), edge_folder, certificate, key, mark,
# inspect (the format of docker inspect), sockets (a command), gpu_fields and gpu_health (lists of
# what nvidia-smi is asked for), watchdog (a folder), is_active and main_pid (of systemctl), secure_boot (a command), gpu_patience (seconds), masks (functions of awk).
# Sections start with "== "; what programs wrote themselves has "| " before it, so that it cannot.

# Keys are compared by digests with a salt that stays here: outside they say nothing.
salt=$(head -c 32 /dev/urandom | sha256sum | cut -c 1-64)

digest() {
    value=$(cat)
    if [ -z "$value" ]; then echo empty; return; fi
    printf '%s%s' "$salt" "$value" | sha256sum | cut -c 1-16
}

unquoted() { sed "s/^\\([\"']\\)\\(.*\\)\\1\$/\\2/"; }

container_env() { timeout 20 docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$1"; }

docker_answers=
! timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || docker_answers=yes

# Everything that is printed goes through a mask for these. They come by pipe, never as arguments.
secrets() {
    sed -n 's/^[A-Za-z_][A-Za-z0-9_]*=//p' "$directory/.env"
    sed -n 's/^[^" ]* "\(.*\)";$/\1/p' "$edge_folder/internal.map"
    sed -n 's/^"Bearer \([^"]*\)".*/\1/p' "$edge_folder"/clients*.map
    [ -z "$docker_answers" ] || for agent in $agents; do
        container_env "$agent" | sed -n 's/^[A-Z_]*\(KEY\|TOKEN\|SECRET\|PASSWORD\)[A-Z_]*=//p'
    done
}

quoted() { cut -c 1-2000 | sed 's/^/| /'; }

look() {
    echo '== clock'; date +%s.%N
    echo '== deploys'; look_at_deploys
    echo '== user'; id -u
    echo '== controller'
    pid=$$
    for _ in 1 2 3 4 5 6 7 8; do
        from=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=\([^ ]*\).*/\1/p')
        if [ -n "$from" ]; then echo "$from"; break; fi
        pid=$(sed 's/.*) . //; s/ .*//' 2>/dev/null <"/proc/$pid/stat") || break
        case "$pid" in '' | 0 | 1) break ;; esac
    done

    echo '== own addresses'; hostname -I 2>/dev/null

    echo '== deployed'; [ ! -e "$deployed" ] || echo yes
    echo '== begun'
    # The edge comes after the agents: where nginx has taken something up, somebody removed them.
    [ -e "$deployed" ] || [ -e /var/lib/vllm-hosts/stamps/nginx ] ||
        stat -c %Y "$directory/.env" /etc/vllm-hosts /var/lib/vllm-hosts 2>/dev/null | sort -n | tail -n 1
    echo '== last run'; [ ! -f "$history" ] || tail -n 1 "$history" | quoted
    for agent in $agents; do
        echo "== env key $agent"
        [ ! -e "$directory/.env" ] || {
            name=$(printf %s "$agent" | tr a-z- A-Z_)
            sed -n "s/^VLLM_API_KEY_$name=//p" "$directory/.env" | tail -n 1 | unquoted | digest
        }
    done

    echo '== docker'
    if command -v docker >/dev/null; then
        echo "path $(command -v docker)"
        echo "active $($is_active docker.service 2>/dev/null)"
        if [ -n "$docker_answers" ]; then
            echo answers
        else
            timeout 20 docker version --format '{{.Server.Version}}' 2>&1 | quoted
        fi
    fi
    [ ! -e /snap/bin/docker ] || echo 'path /snap/bin/docker'

    echo '== image'
    if [ -n "$docker_answers" ]; then
        timeout 20 docker image inspect --format present "$image" 2>/dev/null || echo absent
    fi
    [ -z "$docker_answers" ] || for agent in $agents; do look_at_agent; done
    for agent in $agents; do
        echo "== edge key $agent"
        [ ! -e "$edge_folder/internal.map" ] ||
            sed -n "s/^vllm_hosts_$agent \"\\(.*\\)\";\$/\\1/p" "$edge_folder/internal.map" | digest
    done
    for agent in $agents; do
        echo "== watchdog $agent"
        [ ! -f "$watchdog/$agent" ] || head -c 4000 "$watchdog/$agent" | quoted
    done
    echo '== models'
    for folder in $folders; do
        if [ -d "$folder" ]; then echo "present $folder"; else echo "absent $folder"; fi
    done
    [ -z "$gpu_agents" ] || look_at_gpus
    look_at_kernel
    look_at_disks
    echo '== listeners'; $sockets
    look_at_edge
    # Between two commands of a deploy there is nothing to see.
    echo '== deploys later'; look_at_deploys
    echo '== whole'; echo yes
}

look_at_agent() {
    echo "== agent $agent"
    state=$(timeout 20 docker inspect --type container --format "$inspect" "$agent" 2>/dev/null) ||
        return 0
    # echo would turn the JSON's \n into a line's end.
    printf '%s\n' "$state"
    echo "== key $agent"
    container_env "$agent" | sed -n 's/^VLLM_API_KEY=//p' | tail -n 1 | digest
    case "$state" in
        *'"health":"healthy"'*) ;;
        *)
            echo "== log $agent"
            # The runs before this one count where Docker itself started it again.
            since=
            case "$state" in
                *'"restarts":0,'*) since="--since $(docker inspect --format '{{.State.StartedAt}}' "$agent")" ;;
            esac
            # shellcheck disable=SC2086
            timeout 20 docker logs --tail 400 $since "$agent" 2>&1 | quoted
            ;;
    esac
    case " $gpu_agents " in
        *" $agent "*)
            case "$state" in
                *'"state":"running"'*)
                    echo "== gpus in $agent"
                    timeout 20 docker exec "$agent" nvidia-smi -L </dev/null 2>&1 | head -n 20 | quoted
                    ;;
            esac
            ;;
    esac
}

smi() {
    # A program that prints for ever ends with the pipe, and has no exit code.
    answer=$({ timeout "$gpu_patience" nvidia-smi --format=csv,noheader,nounits "$@" 2>&1; echo "exit $?"; } | head -c 200000)
    case "$answer" in *"exit "[0-9]*) ;; *) answer=$(printf '%s\nexit 124' "$(printf %s "$answer" | head -c 2000)") ;; esac
    printf '%s\n' "$answer" | sed '$d' | quoted
    printf '%s\n' "$answer" | tail -n 1
}

look_at_gpus() {
    echo '== gpus'
    if command -v nvidia-smi >/dev/null; then
        smi --query-gpu="$gpu_fields"
    else
        echo 'exit -'
    fi
    echo '== gpu health'
    if command -v nvidia-smi >/dev/null; then
        # An older driver knows some of them by another name.
        for fields in $gpu_health; do
            health=$(smi --query-gpu="$fields")
            case "$health" in *'not a valid field'*) ;; *) break ;; esac
        done
        printf '%s\n' "$health"
    fi
    echo '== modules'; sed -n 's/^\(nvidia\|nouveau\|nova_core\) .*/\1/p' /proc/modules
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
        # One that is built into the kernel is in no list of modules.
        case "$(readlink "$device/driver")" in
            */nouveau) echo nouveau ;;
            */NovaCore) echo nova_core ;;
        esac
    done
    echo '== switches'; ls /proc/driver/nvidia-nvswitch/devices 2>/dev/null
    echo '== fabric manager'; $is_active nvidia-fabricmanager.service 2>/dev/null
    echo '== secure boot'; ! command -v mokutil >/dev/null || eval "$secure_boot" | quoted
    echo '== toolkit'; ! command -v nvidia-container-runtime-hook >/dev/null || echo present
}

look_at_kernel() {
    echo '== kernel log'
    lines=$(journalctl -k -q --no-pager --since -24h 2>/dev/null)
    if [ -n "$lines" ] || lines=$(dmesg 2>/dev/null); then
        echo readable
        printf '%s\n' "$lines" |
            grep -E 'NVRM|nouveau|nvidia|Xid|oom-kill|[Kk]ey was rejected|unsigned module|unavailable key' |
            tail -n 200 | quoted
    elif systemd-detect-virt --container --quiet; then
        # The kernel is somebody else's, and so is its log.
        echo readable
    fi
}

look_at_disks() {
    # Docker's images may be told to be elsewhere, and from Docker 29 on are containerd's.
    root=$(sed -n 's/.*"data-root" *: *"\(\/[^"]*\)".*/\1/p' /etc/docker/daemon.json 2>/dev/null)
    for folder in / /var/log /var/lib/docker /var/lib/containerd "${root:-/}" /etc/nginx \
        "$directory" "$cache"; do
        [ -d "$folder" ] || continue
        df -P -B1 "$folder" 2>/dev/null | sed -n '2s/^/bytes /p'
        df -P -i "$folder" 2>/dev/null | sed -n '2s/^/inodes /p'
    done | sort -u | { echo '== disks'; cat; }
}

look_at_edge() {
    echo '== nginx'
    if command -v nginx >/dev/null; then
        echo "active $($is_active nginx.service 2>/dev/null)"
        test=$(nginx -t -q 2>&1) || echo rejected
        printf '%s\n' "$test" | tail -n 5 | quoted
    fi
    echo '== certificate'; cat "$certificate" 2>/dev/null; echo
    echo '== public key'; openssl pkey -in "$key" -pubout 2>/dev/null
    echo '== firewall'
    if command -v nft >/dev/null; then
        if nft list table inet vllm_hosts >/dev/null 2>&1; then echo present
        elif nft list tables >/dev/null 2>&1; then echo absent; fi
    fi
    echo '== requests'
    log=/var/log/vllm-hosts/access.log
    # What clients ask of a gateway, any host's agent answers; what gateways ask, this host's own.
    front=; [ ! -e /etc/vllm-hosts/balancer ] || front=yes
    # What was answered before the edge's keys last changed says nothing about now.
    since=$(date -d '15 minutes ago' +%s)
    booted=$(sed -n 's/^btime //p' /proc/stat)
    master=$($main_pid nginx.service 2>/dev/null)
    for worker in $(cat "/proc/$master/task/$master/children" 2>/dev/null); do
        # Field 22 is when it started, in ticks since the boot.
        ticks=$(sed 's/.*) //' "/proc/$worker/stat" 2>/dev/null | cut -d ' ' -f 20)
        [ -n "$ticks" ] || continue
        started=$((booted + ticks / $(getconf CLK_TCK)))
        [ "$started" -le "$since" ] || since=$started
    done
    [ ! -r "$log" ] || tail -n 5000 "$log" | awk -v since="$(date -d "@$since" +%Y-%m-%dT%H:%M:%S)" -v front="$front" '
        function field(name,  rest) {
            if (!match($0, "\"" name "\":\"?[^\",}]*")) return ""
            rest = substr($0, RSTART, RLENGTH)
            sub("^\"" name "\":\"?", "", rest)
            return rest
        }
        substr(field("time"), 1, 19) >= since && field("agent") != "" {
            from = field("upstream_seconds") ~ /^[0-9]/ ? "vllm" : "edge"
            if (from == "vllm" && front && field("gateway") == "") from = "fleet"
            group = field("agent") " " field("method") " " field("status") " " from " " field("address")
            count[group]++
            last[group] = field("time")
        }
        END { for (group in count) print group, count[group], last[group] }
    '
}

{ secrets 2>/dev/null | unquoted; echo '== look'; look; } | awk "$masks"'
    !looking && $0 == "== look" { looking = 1; next }
    !looking { keep($0); next }
    { print masked($0) }
' | tr -c '\11\12\40-\176' '?'
