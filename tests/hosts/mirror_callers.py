"""Callers that a mirror has to refuse, and one that it answers: each tried on the mirror itself."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.keys.authority import Authority
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.gateway_callers import signed

#: A key, a certificate that it signed itself, and a request for one that the CA signs.
_MAKE = """
set -eu; umask 077
folder=$(mktemp -d /run/vllm-hosts-verify.XXXXXXXX); cd "$folder"; made=
trap '[ -n "$made" ] || rm -rf "$folder"' EXIT; trap 'exit 1' HUP INT TERM PIPE
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
    -subj /CN=no-such-host -keyout key.pem -out self.pem 2>/dev/null
openssl req -new -key key.pem -subj /CN=no-such-host 2>/dev/null
echo "$folder"; made=yes
"""
#: One line for each with its status, or 0 where it got none.
_TRY = """
set -u; cd {folder}; trap 'rm -rf {folder}' EXIT
trap 'exit 1' HUP INT TERM PIPE
printf '%s' {signed} >signed.pem
own={own}
try() {{
    local who=$1 method=$2; shift 2
    printf '%s\\r\\n' "$method /v2/ HTTP/1.1" 'Host: {place}' 'Content-Length: 0' \\
        'Connection: close' '' |
        timeout 10 openssl s_client -brief -ign_eof -connect {place} "$@" >out 2>err
    echo "$who|$(sed -n 's|^HTTP/1.1 \\([0-9]*\\).*|\\1|p' out | head -n 1)"
}}
try 'a host of the inventory' GET -cert "$own/client.cert" -key "$own/client.key"
try 'a caller without a certificate' GET
try 'a certificate that nobody signed' GET -cert self.pem -key key.pem
try 'a host that this inventory does not have' GET -cert signed.pem -key key.pem
try "the host's public certificate" GET -cert {public} -key {public_key}
try 'a host that sends something' PUT -cert "$own/client.cert" -key "$own/client.key"
try 'a host that removes something' DELETE -cert "$own/client.cert" -key "$own/client.key"
"""


@dataclass(frozen=True)
class Answers:
    """Statuses by who was answered; 0: nothing. ``host``: of the one that may ask."""

    host: int
    others: dict[str, int]


def callers(host: Host, settings: HostSettings, authority: Authority) -> Answers:
    """What each caller was answered.

    :raises HostError: a caller could not be made up.
    """
    made = host.check_output(f"bash -c {quote(_MAKE)}")
    request, _, folder = made.rpartition("\n")
    place = f"{settings.address}:{settings.mirror.port}"
    try:
        certificate = signed(request, authority)
    except HostError:
        host.run(f"rm -rf {quote(folder)}")
        raise
    script = _TRY.format(
        folder=quote(folder),
        signed=quote(certificate),
        own=quote(f"/etc/docker/certs.d/{place}"),
        place=place,
        public="/etc/vllm-hosts/tls/certificate.pem",
        public_key="/etc/vllm-hosts/tls/key.pem",
    )
    lines = [line.split("|") for line in host.check_output(f"bash -c {quote(script)}").splitlines()]
    if len(lines) != script.count("\ntry '") + script.count('\ntry "'):
        raise HostError("not every caller could be tried")
    (_, first), *others = [(who, int(status or 0)) for who, status in lines]
    return Answers(first, dict(others))
