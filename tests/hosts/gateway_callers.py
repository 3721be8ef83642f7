"""Callers that a host's port for gateways has to refuse: each tried on the host itself.

No key comes to the host or leaves it: the one that they use is made there and removed again. The
only certificate that the CA signs for it is one of a gateway that does not exist, for minutes.
"""

from __future__ import annotations

from datetime import timedelta
from shlex import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import INNER_CERTIFICATE, INNER_KEY, TLS_CERTIFICATE, TLS_KEY
from vllm_hosts.keys.authority import Authority
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name

#: A gateway that no inventory has.
_NOBODY = "no-such-gateway"
_MINUTES = timedelta(minutes=10)
#: A key, a certificate that it signed itself, and a request for one that the CA signs.
_MAKE = """
set -eu; umask 077
folder=$(mktemp -d /run/vllm-hosts-verify.XXXXXXXX); cd "$folder"; made=
trap '[ -n "$made" ] || rm -rf "$folder"' EXIT; trap 'exit 1' HUP INT TERM PIPE
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
    -subj {gateway} -keyout key.pem -out self.pem 2>/dev/null
openssl req -new -key key.pem -subj {nobody} 2>/dev/null
echo "$folder"; made=yes
"""
#: What each gets where it claims to ask for a client, as gateways do: one line for each with its
#: status, or 0 where it got none. With `-brief` openssl says on stderr whose connection it has.
_TRY = """
set -u; cd {folder}; trap 'rm -rf {folder}' EXIT
trap 'exit 1' HUP INT TERM PIPE
printf '%s' {signed} >signed.pem
try() {{
    local who=$1; shift
    printf '%s\\r\\n' 'GET /v1/models HTTP/1.1' 'Host: {name}' 'X-Vllm-Hosts-Client: nobody' \\
        'Connection: close' '' |
        timeout 10 openssl s_client -brief -ign_eof -connect 127.0.0.1:{port} "$@" >out 2>err
    echo "$who|$(sed -n 's|^HTTP/1.1 \\([0-9]*\\).*|\\1|p' out | head -n 1)|$(grep -c {shown} err)"
}}
try 'a caller without a certificate' -servername {name}
try 'a certificate that nobody signed' -servername {name} -cert self.pem -key key.pem
try "the host's public certificate" -servername {name} -cert {public} -key {public_key}
try "the host's certificate for gateways" -servername {name} -cert {inner} -key {inner_key}
try 'a gateway that this inventory does not have' -servername {name} -cert signed.pem -key key.pem
try 'a caller that names no agent' -noservername
"""


def callers(host: Host, settings: HostSettings, authority: Authority) -> dict[str, int]:
    """What each caller that is no gateway was answered; 0: nothing.

    :raises HostError: nobody answers there at all, or a caller could not be made up.
    """
    gateway = quote(f"/CN={settings.gateways[0].name}")
    made = host.check_output(
        f"bash -c {quote(_MAKE.format(gateway=gateway, nobody=quote(f'/CN={_NOBODY}')))}"
    )
    request, _, folder = made.rpartition("\n")
    name = inner_name(settings.name, settings.agents[0].name)
    try:
        certificate = signed(request, authority)
    except HostError:
        host.run(f"rm -rf {quote(folder)}")
        raise
    script = _TRY.format(
        folder=quote(folder),
        signed=quote(certificate),
        name=name,
        port=settings.gateway.port,
        shown=quote("Peer certificate"),
        public=TLS_CERTIFICATE,
        public_key=TLS_KEY,
        inner=INNER_CERTIFICATE,
        inner_key=INNER_KEY,
    )
    lines = [line.split("|") for line in host.check_output(f"bash -c {quote(script)}").splitlines()]
    if len(lines) != script.count("\ntry '") + script.count('\ntry "'):
        raise HostError("not every caller could be tried")
    # Whoever names an agent sees at least the certificate; where nobody does, nobody was refused.
    if not any(int(seen) for _, _, seen in lines):
        raise HostError(f"nobody answers on port {settings.gateway.port}; run deploy.py")
    return {who: int(status or 0) for who, status, _ in lines}


def signed(request: str, authority: Authority) -> str:
    """A certificate for a key on the host, of a gateway or host that does not exist.

    :raises HostError: there is no CA, or the request cannot be read.
    """
    ca = authority.found()
    if ca is None:
        raise HostError("the store has no CA")
    try:
        wanted = x509.load_pem_x509_csr(request.encode())
    except ValueError as error:
        raise HostError("openssl on the host makes no request for a certificate") from error
    key = load_pem_private_key(ca.key_text().get_secret_value().encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = utc_now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NOBODY)]))
        .issuer_name(ca.certificate.subject)
        .public_key(wanted.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _MINUTES)
        .not_valid_after(now + _MINUTES)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()
