"""Your hosts. Edit this and group_data/gpu_hosts.py, then: pyinfra inventory/prod.py deploy.py

A host is a name or address, or a tuple as below with what SSH and sudo need (pyinfra's own names).
"""

gpu_hosts = [
    (
        "gpu1.example.com",
        {
            "ssh_user": "admin",
            "ssh_key": "~/.ssh/id_ed25519",
            "_sudo": True,  # leave it out where ssh_user is root
            # "ssh_hostname": "192.0.2.11",  # where the name above is not in DNS
            # "ssh_port": 22,
            # "secrets": {"sudo_password_command": "pass show gpu1"},  # otherwise you are asked
            # "edge": {"names": ["llm.example.com"]},  # any setting, for this host alone
        },
    ),
]
