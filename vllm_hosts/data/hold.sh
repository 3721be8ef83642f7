# Holds this host for one deploy, as long as the connection lives that this came over. Before it stand
# deploys.sh and, as shell variables: lock, history and deployed (files), mark, undo, unconfirmed,
# patience (seconds to wait for others) and owner (who holds it, and what for: one line of JSON).
#
# It prints `lock ...` lines, and reads lines from standard input: what the deploy has changed so far,
# the last of which stands in the history. When that ends, with the deploy or because it was cut off,
# so does this, and the kernel frees the lock. Nothing has to be cleaned up after whatever happens.

set -u; umask 077; export LC_ALL=C VLLM_HOSTS_HOLD=yes
say() { printf 'lock %s\n' "$*"; }
one_line() { tr -c '\12\40-\176' '?' | head -n 1 | cut -c 1-2000; }

[ "$(id -u)" = 0 ] || { say "user $(id -u)"; exit 1; }
command -v flock >/dev/null || { say without; exit 1; }

# The address that this came from, as sshd knows it.
address() {
    above='' parent=$$
    for _ in 1 2 3 4 5 6 7 8; do
        above="$above /proc/$parent/environ"
        look_above "$parent"
        case "$parent" in '' | 0 | 1) break ;; esac
    done
    # shellcheck disable=SC2086
    found=$(sed -zns 's/^SSH_CONNECTION=\([^ ]*\).*/\1/p' $above 2>/dev/null | tr '\0' '\n' | one_line)
    echo "${found:--}"
}

# In a folder that only root can write, and for root alone: nobody else can hold or forge it. Tried
# before: where a shell's own "exec" fails, the shell ends.
true >>"$lock" || { say unwritable; exit 1; }
exec 9>>"$lock"
waited=0 every=0
until flock -w "$every" 9; do
    who=$(head -n 1 "$lock" | one_line)
    [ "$waited" -lt "$patience" ] || { say "refused held $who"; exit 1; }
    say "waits held $who"
    every=5; [ $((patience - waited)) -ge $every ] || every=$((patience - waited))
    waited=$((waited + every))
done
from=$(address)
boot=$(cat /proc/sys/kernel/random/boot_id)
printf '%s %s %s %s\n' $$ "$boot" "$from" "$owner" >"$lock"
while left=$(look_at_left) && [ -n "$left" ]; do
    left=$(printf '%s\n' "$left" | tr '\n' ';' | one_line)
    [ "$waited" -lt "$patience" ] || { true >"$lock"; say "refused left $left"; exit 1; }
    say "waits left $left"
    sleep 2 9>&-; waited=$((waited + 2))
done
# A change that nobody confirmed, and whose timer ended without undoing it: a boot, weeks later, would
# take it back silently. The timer's own script restores what runs as well; where it is gone, after a
# boot, there is the other one. They keep the lock, also where this shell is killed meanwhile.
for folder in "$unconfirmed"/*/; do
    [ -e "${folder}undo.sh" ] || continue
    name=${folder%/}; name=${name##*/}
    say "waits left undo $name"
    script=$undo/$name/undo.sh; [ -e "$script" ] || script=${folder}undo.sh
    why=$({
        timeout -k 2 25 sh "$script"
        case $? in 124 | 137) echo "it did not end in 25 s" ;; esac
    } 2>&1 </dev/null | tail -n 1 | one_line)
    [ ! -e "${folder}undo.sh" ] || { true >"$lock"; say "refused unconfirmed $name $why"; exit 1; }
done
# Where none waits any more, this removes what a boot would have started.
[ ! -e "$unconfirmed/boot.sh" ] || {
    sh "$unconfirmed/boot.sh" </dev/null >/dev/null 2>&1
    systemctl daemon-reload 2>/dev/null
}
# What was killed on the spot, or lost its power, has not cleaned up. Nobody works with it any more.
run=${lock%/*}
rm -rf --one-file-system "$run"/vllm-hosts.?????? "$lock".??????
# Those who look hold nothing. While one is at it, it is named by its folder, or its folder by it.
for path in "$run"/vllm-hosts-look.*.??????; do
    [ -e "$path" ] || continue
    pid=${path%.*}; pid=${pid##*.}
    grep -qs vllm-hosts-look "/proc/$pid/cmdline" || rm -rf --one-file-system "$path"
done
for path in "$run"/vllm-hosts-rehearsal.*; do
    [ -e "$path" ] || continue
    # Grep's own words are not the ones that it looks for.
    grep -qs "[v]${path#"$run"/v}" /proc/[0-9]*/cmdline || rm -rf --one-file-system "$path"
done
# A key for the certificate of a caller, which is valid for ten minutes.
find "$run" -maxdepth 1 -name 'vllm-hosts-verify.*' -mmin +10 -exec rm -rf {} +
[ ! -f "$deployed" ] || sed 's/^[^ ]*  //' "$deployed" | sort -u | while read -r path; do
    rm -f "$path.vllm-hosts-new" "${path%/*}/.${path##*/}.vllm-hosts-old"
done
find "${history%/*}" -xdev -name '*.vllm-hosts-???' -type f -exec rm -f {} + 2>/dev/null
rm -rf "$lock.removed" "${history%/*}.removed"
say taken

# Handlers instead of ignoring: what this starts must end by signals as ever.
trap : HUP INT TERM PIPE
end='
'
# The words between are for the connection: one that is dead is noticed when it carries something.
# What is said is kept here and in no file: where none can be written, the host is held all the same.
text= listen='trap : HUP INT TERM PIPE; timeout --foreground 20 cat; echo "=$?"'
while
    text=$text$(exec sh -c "$listen" 9>&-)
    code=${text##*=} text=${text%=*}
    # The last whole line, and what has come of the next one.
    more=${text##*"$end"} line=${text%"$end"*}
    [ "$line" = "$text" ] || text=${line##*"$end"}$end$more
    [ "$code" != 0 ]
do say alive || break; [ "$code" = 124 ] || sleep 1; done
# A line that was cut short is none.
line=$(printf %s "$text" | grep '^{.*}$' | tail -n 1 | one_line)
if [ -e "$lock.removed" ]; then
    # Nothing of ours is there any more, and no history either: the system's log has who did that.
    rm -f "$lock.removed"
    logger -t vllm-hosts -- "$from $line"
elif [ -n "$line" ]; then
    (umask 022; mkdir -p "${history%/*}")
    {
        [ ! -f "$history" ] || tail -n 499 "$history" | tail -c 500000
        printf '%s %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$from" "$line"
    } >"$history.new" && sync "$history.new" && mv -fT "$history.new" "$history" || {
        rm -f "$history.new"
        logger -t vllm-hosts "no room for the history: $from $line" 2>/dev/null
    }
fi
true >"$lock"
