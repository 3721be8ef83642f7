
work=$(mktemp -d /run/vllm-hosts-look.$$.XXXXXX 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT; trap 'exit 1' HUP INT TERM PIPE
mkdir "$work/ask" "$work/taken" "$work/said" "$work/well" || exit 1
base64 -d | tar -xzm -f - -C "$work/ask" || exit 1
echo 0 1 2 3 |
    timeout -k 2 40 xargs -P 4 -n 1 sh -c 'set -C; for ask in "$0"/ask/*; do one=${ask##*/}; { true >"$0/taken/$one"; } 2>/dev/null || continue; sh "$ask" </dev/null 2>/dev/null >"$0/said/$one" && true >"$0/well/$one"; done' "$work" || :
cd "$work/well" && set -- * && cd ../said || exit 1
{ [ ! -f "$1" ] || { stat -c '%n %s' -- "$@"; echo; cat -- "$@"; }; } | gzip -c | base64

