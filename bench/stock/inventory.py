"""The hosts of Ansible's inventory, which BENCH_INVENTORY names, with the same variables."""

import json as _json
import os as _os
from pathlib import Path as _Path

_found = _json.loads(_Path(_os.environ["BENCH_INVENTORY"]).read_text())["all"]["hosts"]
hosts = [
    (
        name,
        {key: value for key, value in kept.items() if not key.startswith("ansible_")}
        | {
            "ssh_hostname": kept["ansible_host"],
            "ssh_port": kept["ansible_port"],
            "ssh_user": kept["ansible_user"],
            "ssh_key": kept["ansible_ssh_private_key_file"],
            "ssh_known_hosts_file": kept["known_hosts"],
            "ssh_strict_host_key_checking": "yes",
            "_sudo": kept["ansible_user"] != "root",
        },
    )
    for name, kept in _found.items()
]
