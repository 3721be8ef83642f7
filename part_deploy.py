from roles.preflight import preflight
from roles.docker import docker
from roles.firewall import firewall
from roles.secrets import secrets
from roles.tls import tls
from roles.nginx import nginx
preflight(); docker(); firewall(); secrets(); tls(); nginx()
