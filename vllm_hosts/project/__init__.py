"""One site as its owner wrote it: inventory, settings of hosts, keys, endpoints."""
