"""Every setting with its default, for all hosts. Made from the schema; edit it freely.

What a host needs besides these is `agents`: see group_data/gpu_hosts.py. More about each
setting: docs/settings.md."""

# Docker Engine and Compose.
docker = {
    # `docker-ce`: Docker's own apt archive; `distro`: the distribution's packages
    "source": "docker-ce",
    # Docker's archive or a mirror of it; `/debian` or `/ubuntu` is added
    "archive_url": "https://download.docker.com/linux",
    # The archive's signing key; None: `gpg` beside the archive
    "key_url": None,
    # The only key that may sign the archive
    "key_fingerprint": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    # A container's log is rotated at this size
    "log_max_size": "50m",
    # Rotated log files kept per container
    "log_max_file": 3,
    # Containers keep running while the Docker daemon restarts; must be False on a node of a
    # Docker swarm, where dockerd does not start with it
    "live_restore": True,
    # Folders that containers other than agents may mount, besides the usual ones below `/srv`,
    # `/data`, `/mnt`, `/media`, `/opt`, `/var/www` and in users' homes; the hosts suite checks
    # their mounts
    "container_folders": [],
    # Users who may be in the group `docker`, which makes them root; the hosts suite checks who
    # is, and nobody is added
    "group_members": [],
}

# GPU driver and NVIDIA Container Toolkit. Used on hosts where an agent asks for a GPU.
nvidia = {
    # `present`: a host without a working driver is refused; `install`: it gets one
    "driver": "present",
    # `distro`: the distribution's packages; `nvidia`: NVIDIA's CUDA archive
    "driver_source": "distro",
    # Series to install, such as `580`; a driver of another series is replaced; None: a driver
    # that works stays, otherwise 580, or the one that Debian has
    "driver_series": None,
    # Reboot hosts where the driver needs it, one host at a time
    "allow_reboot": False,
    # Seconds within which a rebooted host must be back
    "reboot_timeout": 900,
    # NVIDIA's CUDA archive or a mirror of it; `/debian13/x86_64` and the like is added
    "driver_archive_url": "https://developer.download.nvidia.com/compute/cuda/repos",
    # That archive's signing key; None: the file that NVIDIA has beside it
    "driver_key_url": None,
    # The only key that may sign that archive; None: NVIDIA's own
    "driver_key_fingerprint": None,
    # Version of all four toolkit packages, which are then held
    "toolkit_version": "1.20.1-1",
    # NVIDIA's archive or a mirror of it; the architecture is added
    "archive_url": "https://nvidia.github.io/libnvidia-container/stable/deb",
    # The archive's signing key
    "key_url": "https://nvidia.github.io/libnvidia-container/gpgkey",
    # The only key that may sign the archive
    "key_fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
}

# Our own nftables table. Everything that is not named here or in `edge` is dropped.
firewall = {
    # Networks that may use SSH; empty: everybody
    "ssh_from": [],
    # Further TCP ports open to everybody, such as a metrics exporter's
    "extra_tcp_ports": [],
    # Further UDP ports open to everybody, such as WireGuard's
    "extra_udp_ports": [],
    # Interfaces from which this host forwards packets for others, such as `wg0` of a VPN that it
    # routes. Bridges of containers and virtual machines need no entry
    "forward_from": [],
}

# Changes to SSH, if any.
ssh_hardening = {
    # Disable password logins, once a login with a key has been seen to work
    "enabled": False,
}

# Sources of secrets that the toolkit does not generate itself.
secrets = {
    # Environment variable, on the controller, that holds the Hugging Face token
    "hf_token_env": None,
    # Shell command, on the controller, that prints the Hugging Face token, such as `pass show hf`
    # or `op read op://ai/hf/token`
    "hf_token_command": None,
    # Environment variable, on the controller, with the key between edge and vLLM; None: generated
    # at first use and kept
    "internal_key_env": None,
    # Shell command, on the controller, that prints the key between edge and vLLM
    "internal_key_command": None,
    # Environment variable, on the controller, with the password that sudo needs on the host;
    # None: you are prompted, if sudo needs one
    "sudo_password_env": None,
    # Shell command, on the controller, that prints the password that sudo needs on the host, such
    # as `pass show gpu1`; run only if sudo asks
    "sudo_password_command": None,
}

# The Hugging Face hub, or a mirror of it. Used only while models are fetched.
hub = {
    # A mirror of the hub, as in HF_ENDPOINT; None: https://huggingface.co
    "endpoint": None,
    # Files of a model that are fetched in parallel
    "connections": 4,
}

# What all agents of a host share.
vllm = {
    # Container image, pinned by an exact tag or by digest
    "image": "vllm/vllm-openai:v0.33.0",
    # vLLM's version in the image, if its tag does not contain it; checked against the image once
    # it is on the host
    "version": None,
    # Folder of compose.yaml and .env on the host
    "directory": "/opt/vllm",
    # Folder of downloaded models and compiled kernels on the host
    "cache_directory": "/var/lib/vllm",
    # Numeric user and group that vLLM runs as, in the container
    "user": "64101:64101",
    # Numeric user that owns fetched models, and the agents' group, which may only read them
    "fetch_user": "64102:64101",
    # IPv4 range for agents' own networks, used on this host only; nothing else that the host
    # reaches may be in it
    "network": "198.18.0.0/16",
    # GiB that must be free before the image is pulled
    "image_disk": 40,
    # GiB that must be free for each hub model that is not on the host yet
    "model_disk": 20,
    # Seconds within which a started agent must become healthy
    "health_timeout": 1800,
    # `False`: hosts that serve the same model change their agents one after the other, and a
    # failure stops those after it; `True`: all at once
    "change_together": False,
    # Whether agents that do not become healthy are put back to the last definition that did; the
    # deploy fails on that host either way
    "roll_back": True,
    # Seconds that in-flight requests get to finish when an agent stops
    "drain_timeout": 20,
    # Whether the host restarts an agent whose engine is dead or frozen behind an API that still
    # answers
    "watchdog": True,
    # Seconds between two looks of the watchdog at an agent
    "watchdog_interval": 30,
    # Looks in a row without a sign of life, after which the watchdog restarts an agent; vLLM
    # itself gives one step of an engine 300 seconds
    "watchdog_looks": 10,
    # Restarts of one agent within an hour, after which the watchdog leaves it as it is
    "watchdog_restarts": 3,
}

# Whether vLLM takes the agents and they fit their GPUs. See docs/capacity.md.
capacity = {
    # What a deploy does if vLLM itself refuses an agent, before its container is touched:
    # `refuse` the host, `warn`, or `off`, which asks nobody and makes no plan
    "preflight": "refuse",
    # Memory of each GPU in GiB, for hosts that cannot be queried; None: only what the host
    # reports
    "gpu_memory": None,
}

# Certificates of the edge.
tls = {
    # `local-ca`: our own CA signs; `files`: you provide them
    "mode": "local-ca",
    # With `files`: certificate chain in PEM, on the controller; you renew it there, and the next
    # deploy brings it to hosts
    "certificate": None,
    # With `files`: the certificate's key in PEM, on the controller
    "key": None,
    # With `files`: CA certificate that clients need, in PEM, on the controller; None: a CA that
    # every system trusts
    "ca_file": None,
    # With `local-ca`: lifetime of a host's certificate, in days
    "valid_days": 365,
    # With `local-ca`: a deploy renews it when fewer days than this are left
    "renew_before_days": 120,
}

# nginx: the only way in for clients.
edge = {
    # DNS names and addresses that clients use; empty: the host's SSH address
    "names": [],
    # Port for clients
    "https_port": 443,
    # Port that only redirects to HTTPS
    "http_port": 80,
    # Networks that may send requests, including the controller's, which verifies the edge; empty:
    # everybody with a key
    "allow_from": [],
    # Largest request
    "max_body_size": "32m",
    # Seconds that a response may pause before it is cut off
    "timeout": 3600,
    # Per client; more get 429
    "requests_per_second": 20,
    # Requests above the rate that are still accepted at once
    "burst": 40,
    # Simultaneous requests per client; more get 429
    "connections": 128,
    # Clients that may use all of `connections` at the same time; nginx gets room for them and for
    # strangers
    "expected_clients": 32,
    # Simultaneous TCP connections from one address, or from one IPv6 /64 (four times as many from
    # one IPv6 /48); a gateway that calls for many clients needs as many as it holds open
    "connections_per_source": 512,
    # More of vLLM's routes that clients may use, such as `POST /v2/embed`; only those for which
    # vLLM requires its own key. See docs/clients.md
    "routes": [],
    # On a host with several agents, `/v1` serves all of them: the request's `model` says which.
    # Needs the distribution's package `libnginx-mod-http-lua`; False: `/v1` is the first agent's
    "by_model": True,
    # The access log has each request's prompt, cached and completion tokens, for `vllm-hosts
    # usage`. Needs the distribution's package `libnginx-mod-http-lua`
    "count_tokens": True,
    # Whose requests share a prefix cache: `client`, nobody's, so that no client can tell from the
    # time of an answer what another one has asked (CVE-2025-46570); `off`, everybody's. Needs the
    # distribution's package `libnginx-mod-http-lua`
    "cache_isolation": "client",
    # Lists of clients; those of one list share a prefix cache nevertheless. See docs/clients.md
    "cache_groups": [],
    # Origins of web pages that may use this host from a browser, such as
    # `https://app.example.com`; empty: none
    "cors_origins": [],
    # The access log is rotated at this size; checked every ten minutes
    "log_max_size": "64m",
    # Rotated access logs kept, compressed
    "log_max_files": 10,
    # If less than this is free on the logs' file system, the edge's oldest logs are removed
    "log_reserve": "1g",
}

# Hosts of the group `gateways`: one address for the models of all hosts. See docs/fleet.md.
gateway = {
    # Port of a GPU host's edge that only gateways reach, over mutual TLS
    "port": 8443,
    # Where this gateway's connections to hosts come from; empty: its SSH address, which has to be
    # an IP address then
    "networks": [],
    # Seconds that running requests have to end before an agent of a host that changes is stopped
    # nevertheless
    "drain_timeout": 600,
    # No agent gets more than this times its fair share of requests, for the sake of its prefix
    # cache
    "fair_share": 1.25,
    # Header by which clients name a conversation, whose requests go to the same agent; without
    # it, client and the beginning of the prompt do
    "session_header": "X-Session-Id",
    # One address for all gateways: keepalived gives it to one of them, and to another one when
    # that one fails. A free address of a network that all of them are in; None: each gateway is
    # called by its own
    "virtual_ip": None,
    # This gateway's own address in the network of `virtual_ip`; None: its SSH address, which has
    # to be an IP address then
    "virtual_source": None,
}

# The host of the group `mirror`: it fetches image and models for all. See docs/mirror.md.
mirror = {
    # Port of the mirror that only hosts of the inventory reach, over mutual TLS
    "port": 8444,
    # Where this host's connections to the mirror come from; empty: its SSH address, which has to
    # be an IP address then
    "networks": [],
}

# How a run goes over hosts that serve the same model.
rolling = {
    # How many hosts that serve the same model change their agents at the same time: a number, or
    # a share such as `25%`; always at least one, and never all of several
    "batch": 1,
}
