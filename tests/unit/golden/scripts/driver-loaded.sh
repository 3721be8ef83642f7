
if command -v modprobe >/dev/null; then
    modprobe nvidia && modprobe nvidia_uvm
else
    echo 'there is no modprobe'
fi 2>&1 || :

