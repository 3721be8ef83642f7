"""Paths on a host that one role writes and another one names to a program."""

EDGE_FOLDER = "/etc/nginx/vllm-hosts"
TLS_FOLDER = "/etc/vllm-hosts/tls"
TLS_CERTIFICATE = f"{TLS_FOLDER}/certificate.pem"
TLS_KEY = f"{TLS_FOLDER}/key.pem"
