# What an agent answers is data: its size is bounded, and only numbers and a status are taken from it.
set -u -o pipefail; umask 077; export LC_ALL=C
# Bytes of an answer of /metrics, and of one line of it: a busy agent has 300 kB, and labels of some hundred bytes.
# awk would make 400 MB of a line that has only words, and all agents have one limit of memory.
size=16777216
width=4096
# Of those, the last restarts that are kept for people, and for the limit.
kept=10

say() { printf '<4>%s\n' "$*"; }
number() { [[ $1 =~ ^[0-9]{1,9}$ ]]; }

# The rule: what one look says of an agent. LOADED: it was healthy since it started. SAID: whether it
# told its numbers (known, none, silent). MOVED: whether one that only its engine moves is another one
# than before. BUSY: requests run. PROBE: what came of a request for one token.
judge() { # STATE HEALTH LOADED SAID MOVED BUSY PROBE
    if [ "$1" != running ]; then echo away
    elif [ "$3" != yes ]; then echo loading
    elif [ "$5" = yes ] || [ "$7" = answered ]; then echo alive
    elif [ "$4" = silent ]; then
        # Where Docker's own check is answered, it is the way from here that is cut.
        if [ "$2" = unhealthy ]; then echo silent; else echo unknown; fi
    elif [ "$4" != known ]; then echo unknown
    elif [ "$7" = silent ]; then echo stalled
    elif [ "$7" = failed ]; then echo failed
    elif [ "$6" = yes ]; then echo stuck
    else echo unknown
    fi
}

# What follows from looks in a row without a sign of life, and from restarts within the last hour.
decide() { # LOOKS-IN-A-ROW RESTARTS GAVE-UP
    if [ "$1" -lt "$looks" ] || [ -n "$3" ]; then echo wait
    elif [ "$2" -lt "$limit" ]; then echo restart
    else echo give-up
    fi
}

# What is remembered of an agent: since the boot what was seen of it, and for good how often it was
# restarted. Whatever does not read as it was written counts as nothing.
recall() { # NAME
    began='' loaded=no progress='' row=0 route='' gave_up='' total=0 restarts=()
    local word value
    while read -r word value; do
        case $word in
            began) began=$value ;;
            loaded) loaded=$value ;;
            progress) progress=$value ;;
            row) ! number "$value" || row=$value ;;
            route) route=$value ;;
            gave-up) gave_up=$value ;;
            total) ! number "$value" || total=$value ;;
            restart) ! [[ $value =~ ^[0-9]{1,12}\ [a-z]+$ ]] || restarts+=("$value") ;;
        esac
    done < <(head -qc 4000 "$counts/$1" "$seen/$1" 2>/dev/null)
}

remember() { # NAME
    printf '%s\n' "began $began" "loaded $loaded" "progress $progress" "row $row" "route $route" >"$seen/$1"
}

count() { # NAME
    {
        printf '%s\n' "total $total" "gave-up $gave_up"
        [ ${#restarts[@]} = 0 ] || printf 'restart %s\n' "${restarts[@]}" | tail -n "$kept"
    } >"$counts/$1.new" && mv -fT "$counts/$1.new" "$counts/$1"
}

# Another start is another agent: nothing that was seen before says anything of it.
renew() { # HEALTH BEGAN
    [ "$2" = "$began" ] || began=$2 loaded=no progress='' row=0 route='' gave_up=''
    [ "$1" != healthy ] || loaded=yes
}

standing() { # NAME: Docker's words for its state and health, and when it started
    local said
    said=$(timeout 20 docker container inspect --format "{{.Name}} $inspect" "$1" 2>/dev/null)
    # Where no container has that name, Docker takes one whose identifier begins so.
    case $said in
        "/$1 "*) echo "${said#"/$1 "}" ;;
        *) echo absent - - ;;
    esac
}

# Sends standard input to an agent, at its own address, which no local user can take over. bash speaks
# TCP by itself; a key comes by pipe, and stands in no arguments.
exchange() { # NAME
    timeout -k 5 "$patience" bash -c '
        exec 3<>"/dev/tcp/$0/$1" || exit
        cat >&3 && exec cat <&3' "${address[$1]}" "$port" 2>/dev/null
}

# Numbers that an engine moves with every step, one word; whether requests run; or none, or silent.
numbers() { # NAME
    local said
    said=$(
        printf 'GET /metrics HTTP/1.0\r\nHost: agent\r\nConnection: close\r\n\r\n' | exchange "$1" |
            head -c "$size" | cut -b "-$width" | awk -v wanted="$metrics" '
                BEGIN { count = split(wanted, names, " "); for (i in names) known[names[i]] = 1 }
                NR == 1 { answers = $0 ~ /^HTTP\/1\.[01] 200 /; next }
                { sub(/\r$/, "") }
                match($0, /^vllm:[a-z_]+/) {
                    name = substr($0, 1, RLENGTH)
                    if (name in known && $NF ~ /^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9][0-9]?[0-9]?)?$/) {
                        sum[name] += $NF; found = 1
                    }
                }
                END {
                    if (!NR) { print "silent - no"; exit }
                    if (!answers || !found) { print "none - no"; exit }
                    for (i = 1; i <= count; i++) text = text (i > 1 ? "," : "") sprintf("%.17g", sum[names[i]])
                    print "known", text, (sum[names[1]] > 0 ? "yes" : "no")
                }'
    ) || said='silent - no'
    echo "$said"
}

# One token, of whatever the model makes: answered, refused (it may be well), failed or silent, and the
# path that answered.
probe() { # NAME PATH: the one that answered before
    local name=$1 before=$2 key='' line path status tried='' until=$((SECONDS + patience))
    while IFS= read -r line; do
        case $line in "${variable[$name]}="*) key=${line#*=} ;; esac
    done <"$env"
    for path in ${before:+"$before"} /v1/completions /v1/embeddings /pooling /classify; do
        case " $tried " in *" $path "*) continue ;; esac
        # All of them together may take as long as one: other agents wait for the end of this look.
        [ $SECONDS -lt $until ] || break
        tried="$tried $path"
        case $path in
            /v1/completions) line="{\"model\": ${model[$name]}, \"prompt\": \"a\", \"max_tokens\": 1}" ;;
            *) line="{\"model\": ${model[$name]}, \"input\": \"a\"}" ;;
        esac
        status=$(
            printf 'POST %s HTTP/1.0\r\nHost: agent\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
                "$path" "$key" ${#line} "$line" | exchange "$name" | head -c 12 | tr -d '\0'
        )
        case $status in
            'HTTP/1.'[01]' 2'*) echo "answered $path"; return ;;
            'HTTP/1.'[01]' 5'*) echo failed -; return ;;
            'HTTP/1.'[01]' '*) ;;
            *) echo silent -; return ;;
        esac
    done
    echo refused -
}

# One look at an agent, as a line. Changes nothing.
look() { # NAME
    local name=$1 state health since said=- now=- busy=no moved=no answer=- path=- again
    recall "$name"
    read -r state health since < <(standing "$name")
    renew "$health" "$since"
    if [ "$state" = running ] && [ "$loaded" = yes ]; then
        read -r said now busy < <(numbers "$name")
        [ "$said" != known ] || [ -z "$progress" ] || [ "$now" = "$progress" ] || moved=yes
        if [ "$said" = known ] && [ $moved = no ]; then
            read -r answer path < <(probe "$name" "$route")
            if [ "$answer" != answered ]; then
                # It may have waited behind others: then something moved meanwhile.
                read -r _ again _ < <(numbers "$name")
                case $again in - | "$now") ;; *) moved=yes ;; esac
            fi
        fi
    fi
    echo "$state $health $since $said $now $busy $moved $answer $path"
}

# The lock that deploys take. Nobody holds a file that is not there.
held() { [ -e "$lock" ] && ! flock -n -s "$lock" true; }

# Counted before it is done: what cannot be counted cannot be limited.
restart() { # NAME VERDICT
    local state health since now
    exec 9>>"$lock" || return
    if ! flock -n 9; then exec 9>&-; return; fi
    printf '%s %s - {"who":"root","what":"watchdog, restarting %s","since":"%s"}\n' \
        $$ "$(cat /proc/sys/kernel/random/boot_id)" "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$lock"
    read -r state health since < <(standing "$1")
    # Somebody may have stopped it meanwhile, or made another one.
    if [ "$state $since" = "running $began" ]; then
        total=$((total + 1)) row=0
        printf -v now '%(%s)T' -1
        restarts+=("$now $2")
        if count "$1"; then
            say "agent $1: ${why[$2]}; restarting it"
            # Nobody waits for what a dead engine is at.
            timeout -k 5 150 docker restart -t 5 "$1" >/dev/null 2>&1 9>&- ||
                say "agent $1: Docker could not restart it; see journalctl -u docker"
        else
            say "agent $1: ${why[$2]}; it is not restarted, since $counts cannot be written"
        fi
    fi
    : >"$lock"
    exec 9>&-
}

recent() { # how many of the restarts were within the last hour, whatever the clock did since
    local one now found=0
    printf -v now '%(%s)T' -1
    for one in ${restarts[@]+"${restarts[@]}"}; do
        one=$((now - ${one%% *}))
        [ $one -ge 3600 ] || [ $one -le -3600 ] || found=$((found + 1))
    done
    echo $found
}

consider() { # NAME, and what its look said
    local name=$1 state=$2 health=$3 since=$4 said=$5 now=$6 busy=$7 moved=$8 answer=$9 path=${10} verdict before
    recall "$name"
    before=$gave_up
    renew "$health" "$since"
    [ "$said" != known ] || progress=$now
    [ "$answer" != answered ] || route=$path
    verdict=$(judge "$state" "$health" "$loaded" "$said" "$moved" "$busy" "$answer")
    case $verdict in
        stalled | failed | stuck | silent) row=$((row + 1)) ;;
        alive) row=0 gave_up='' ;;
        *) row=0 ;;
    esac
    case $(decide $row "$(recent)" "$gave_up") in
        restart) restart "$name" "$verdict" ;;
        give-up)
            printf -v gave_up '%(%s)T %s' -1 "$verdict"
            say "agent $name: ${why[$verdict]}; it was restarted $limit times within an hour, and is left as it is"
            ;;
    esac
    [ "$gave_up" = "$before" ] || count "$name"
    remember "$name"
}

main() {
    local name file line
    declare -A looking
    for file in "$seen"/* "$counts"/*; do
        [ ! -e "$file" ] || [ -n "${address[${file##*/}]+known}" ] || rm -f -- "$file"
    done
    if held; then
        # Whoever changes agents has them restart, and load, and compete for the processors.
        for name in "${!address[@]}"; do
            recall "$name"; row=0; remember "$name"
        done
        return
    fi
    for name in "${!address[@]}"; do
        exec {line}< <(look "$name")
        looking[$name]=$line
    done
    for name in "${!address[@]}"; do
        if read -r -u "${looking[$name]}" line; then
            # shellcheck disable=SC2086
            consider "$name" $line
        fi
    done
}

[ "${BASH_SOURCE[0]}" != "$0" ] || main
