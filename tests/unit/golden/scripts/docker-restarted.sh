

ran=$(docker ps -q --no-trunc 2>/dev/null) || ran=
[ -z "$ran" ] || { mkdir -p /var/lib/vllm-hosts && echo "$ran" >>/var/lib/vllm-hosts/containers-that-ran; }

if [ -n "$ran" ] && grep -qs '"live-restore": *true' /etc/docker/daemon.json; then
    systemctl kill --signal=HUP --kill-who=main docker.service 2>/dev/null || :
    for try in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null)" != true ] || break
        sleep 0.3
    done
fi
begun=$(date +%s); systemctl reset-failed docker.service 2>/dev/null || :
if systemctl restart docker.service; then
    for container in $(cat /var/lib/vllm-hosts/containers-that-ran 2>/dev/null); do
        [ "$(docker inspect -f '{{.State.Running}}' "$container" 2>/dev/null)" != false ] ||
            docker start "$container" >/dev/null || :
    done
    rm -f /var/lib/vllm-hosts/containers-that-ran
else
    journalctl --sync 2>/dev/null || :
    said=$(journalctl _SYSTEMD_UNIT=docker.service --since "@$begun" -o cat --no-pager 2>/dev/null |
        grep -v 'level=\(info\|debug\)' | awk '!said[$0]++' | tail -n 5 | cut -c 1-1000) || :
    echo 'dockerd says:'; echo "$said"
    case $said in
    *swarm*) echo 'so: set docker.live_restore = False, or leave the swarm: docker swarm leave' ;;
    *'both as a flag and in the configuration file'*)
        echo 'so: take these options out of the files that systemctl cat docker.service shows, or'
        echo 'of /etc/default/docker, then systemctl daemon-reload' ;;
    *) echo 'so: correct what it names, in /etc/docker/daemon.json or in what'
        echo 'systemctl cat docker.service shows, and run again' ;;
    esac
    false
fi

