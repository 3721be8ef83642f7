export LC_ALL=C
echo '== seen'; cat /var/lib/vllm-hosts/stamps/gpu 2>/dev/null
            echo '== now'; ( nvidia-smi --query-gpu=uuid,driver_version --format=csv,noheader | grep '^GPU-' || :; dpkg-query -W -f '${Version}\n' nvidia-container-toolkit; echo 0,3 ) 2>/dev/null
echo
echo vllm-hosts-end
