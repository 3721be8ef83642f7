"""Written by bench/gateways.py, and removed at its end."""

from bench.gateways import groups as _groups

gateways, gpu_hosts, lab = _groups()
