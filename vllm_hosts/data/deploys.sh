# What deploys have at work on this host. Shell functions for scripts that set $mark, the variable that
# every command of a deploy carries, and $undo, the folder of changes that wait to be confirmed.

# Each command of a deploy carries when that began. Of root, and not in a container: nobody else can
# say that there is one, by a setuid program neither. Where no login stands above a command, nobody
# waits for it any more.
look_at_deploys() {
    here=$(readlink /proc/self/ns/pid)
    grep -lsz "^$mark=[0-9]" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
        [ "$(stat -c %u "/proc/$pid")" = 0 ] && [ "$(readlink "/proc/$pid/ns/pid")" = "$here" ] || continue
        [ ! -u "/proc/$pid/exe" ] || continue
        since=$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n "s/^$mark=\\([0-9TZ:-]\\{1,32\\}\\)\$/\\1/p")
        name=$(tr -c '[:alnum:]._\n-' '?' <"/proc/$pid/comm" | head -n 1) && [ -n "$since" ] || continue
        state=left at=$pid
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
            at=$(sed 's/.*) . //; s/ .*//' <"/proc/$at/stat") || break
            case "$at" in '' | 0 | 1) break ;; esac
            case "$(cat "/proc/$at/comm")" in sshd* | pyinfra* | python*) state=running; break ;; esac
        done
        # What only waits with the shell that holds this host (hold.sh) works on nothing.
        ! { [ $state = left ] && grep -qsz '^VLLM_HOSTS_HOLD=' "/proc/$pid/environ"; } || continue
        printf '%s %s %s %s\n' "$state" "$pid" "$since" "$name"
    done 2>/dev/null
}

# What a deploy that is gone has left running, a line each: the next one would work on the same things.
look_at_left() {
    look_at_deploys | sed -n 's/^left \([0-9]*\) \([^ ]*\) \(.*\)$/process \1 \2 \3/p' | head -n 20
    for folder in "$undo"/*/; do
        [ -e "${folder}undo.sh" ] && [ ! -e "${folder}undone" ] || continue
        name=$(basename "$folder" | tr -cd a-z-)
        ! systemctl is-active --quiet "vllm-hosts-undo-$name.timer" "vllm-hosts-undo-$name.service" ||
            echo "undo $name"
    done
}
