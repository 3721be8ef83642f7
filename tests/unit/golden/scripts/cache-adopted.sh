
        set -eu
        cd -P /var/lib/vllm
        [ ! -L /var/lib/vllm ] || {
            echo '/var/lib/vllm is a link; set vllm.cache_directory to where it leads'; exit 1
        }
        chown root:root .; chmod 0755 .
        aside() {
            echo "/var/lib/vllm/$1 was put there by an agent: now $1.untrusted-$now" >&2
            mv -T "$1" "$1.untrusted-$now"
        }
        now=$(date +%s)
        for name in agents huggingface; do
            [ -e $name ] || [ -L $name ] || continue
            # Only root makes the folder that holds the agents' own.
            if [ -L $name ] || [ ! -d $name ] ||
                { [ $name = agents ] && [ "$(stat -c %u agents)" != 0 ]; }; then aside $name; fi
        done
        [ ! -d /var/lib/vllm-hosts/models ] || grep -ls '^commit ' /var/lib/vllm-hosts/models/* | xargs -r rm -f
        [ ! -d huggingface ] || docker run --rm --network none --pull never --read-only --pids-limit 64 --user 0:0 --cap-drop ALL --security-opt no-new-privileges:true --cap-add CHOWN --cap-add FOWNER --cap-add DAC_READ_SEARCH --env NVIDIA_VISIBLE_DEVICES=void --entrypoint sh --mount type=bind,source=/var/lib/vllm/huggingface,target=/models             vllm/vllm-openai:v0.33.0 -c '
        chown -hR 64102:64101 /models
        find /models -type d ! -perm -050 -exec chmod g+rx {} +
        find /models -type f ! -perm -040 -exec chmod g+r {} +
        find /models ! -type l -perm /022 -exec chmod go-w {} +
    '
    
