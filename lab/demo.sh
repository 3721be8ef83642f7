#!/usr/bin/env bash
# The words around `make demo`: how long it takes, how long it took, and what comes next.
case $1 in
    begin)
        cache=${VLLM_HOSTS_LAB_CACHE:-/var/cache/vllm-hosts-lab}
        if compgen -G "$cache/registry-*" >/dev/null; then
            echo 'Two hosts and a gateway, from nothing to one closed and verified address: about 6 minutes.'
        else
            echo 'Two hosts and a gateway, from nothing to one closed and verified address: about 10 minutes'
            echo "this time, longer on a slow network. It downloads 1.5 GB and builds 6 GB of caches in"
            echo "$cache; from then on it takes about 6 minutes."
        fi
        ;;
    end)
        printf '\n==> Demo: done after %s s\n' "$(($(date +%s) - $2))"
        cat <<'END'
    Next:  paste a line "try" from above; for a shell on a host: .venv/bin/python -m lab ssh gpu1
           for hosts of your own, see "Your own hosts" in README.md
    Then:  make lab-down      stops the lab and removes its hosts
           make clean-cache   removes its caches too
END
        ;;
    failed)
        printf '\n==> Demo: FAILED after %s s; see above\n' "$(($(date +%s) - $2))" >&2
        echo '    Next:  make demo continues where it stopped; make lab-down stops the lab' >&2
        ;;
esac
