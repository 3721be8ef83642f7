"""What stands between gateways and the hosts behind them."""

from __future__ import annotations

import secrets
from shlex import quote

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import (
    GATEWAY_CA,
    GATEWAY_CLIENT,
    GATEWAY_FOLDER,
    INNER_CERTIFICATE,
    INNER_KEY,
    TLS_CERTIFICATE,
)
from vllm_hosts.keys.pki import certificate_names, signed_by, utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name
from vllm_hosts.suite import nginx_forwarded
from vllm_hosts.suite.balancer_sockets import open_to_others
from vllm_hosts.suite.conftest import Edge, Verified
from vllm_hosts.suite.doors import gateways_of
from vllm_hosts.suite.gateway_callers import callers
from vllm_hosts.suite.listening import listeners
from vllm_hosts.suite.looks import Outside
from vllm_hosts.suite.packets import Table, listing
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs
from vllm_hosts.suite.test_firewall import edge_user, open_wrongly
from vllm_hosts.suite.test_logs import lines_with

_SOCKETS = "/run/vllm-hosts-balancer"
_UNIT = "vllm-hosts-balancer"
#: Keys of clients that are tried at a host behind gateways, and hosts behind a gateway that are
#: searched: one that is wrong is enough.
_TRIED = 10
_SEARCHED = 4
#: What a server says that refuses whoever asks; 0: it hung up.
_REFUSED = {0, 400, 401, 403, 421, 495, 496}


@promise("GW-01")
def test_only_gateways_are_answered_on_their_port(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    statuses = callers(host, settings, verified.project.store.authority)
    answered = [f"{who} got {status}" for who, status in statuses.items() if status not in _REFUSED]
    assert answered == []


@promise("GW-02")
def test_only_gateways_reach_their_port_and_clients_use_only_gateways(
    host: Host, settings: HostSettings, verified: Verified, edge: Edge, outside: Outside
) -> None:
    port = settings.gateway.port
    table = Table(listing(host.check_output("nft -t -j list table inet vllm_hosts")))
    wrong = open_wrongly(table, settings, outside, port, gateways_of(settings))
    if not settings.is_gateway:
        store = verified.project.store
        keys = {
            key.client: key.value
            for gateway in verified.settings.values()
            if gateway.is_gateway
            for key in store.host_keys(gateway).clients
        }
        wrong += [
            f"the host itself accepts the key of client {client}"
            for client, key in list(keys.items())[:_TRIED]
            if edge.ask("/v1/models", key=key).status != 401
        ]
    assert wrong == []


@promise("GW-03")
def test_the_balancer_listens_for_root_and_nginx_only(host: Host, settings: HostSettings) -> None:
    unit_runs(host, _UNIT)
    wrong = [f"HAProxy listens on {one}" for one in listeners(host) if "haproxy" in one.programs]
    held = host.check_output("ss -Hlxp | awk '/\"haproxy\"/ { print $5 }'").split()
    if not held:
        raise BrokenError("HAProxy listens on no socket")
    wrong += [f"HAProxy listens on {path}" for path in held if not path.startswith(f"{_SOCKETS}/")]
    uid, user = edge_user(host)
    nginx = f"{uid}:{host.check_output('id -g %s', user)}"
    # Where several agents have a model, nginx has another one to ask once more.
    pools = settings.edge_side.pools
    names = [pool.name for pool in pools]
    names += [f"{pool.name}.again" for pool in pools if len(pool.replicas) > 1]
    # And one where HAProxy says that it answers, for who decides which gateway has the address.
    names += ["gateway.alive"] if settings.virtual else []
    wrong += open_to_others(host, _SOCKETS, names, nginx)
    assert wrong == []


@promise("GW-04")
def test_no_client_says_under_whose_name_it_is_served(
    host: Host, settings: HostSettings, verified: Verified, edge: Edge
) -> None:
    said = host.check_output(f"bash -c {quote(nginx_forwarded.SCRIPT)}").splitlines()
    places = nginx_forwarded.places_that_forward_names(
        said, gateway=settings.is_gateway, agents=settings.runs_agents
    )
    if places:
        raise BrokenError(f"what clients say of themselves is sent on: {', '.join(places)}")
    forged = f"forged-{secrets.token_hex(8)}"
    before = lines_with(host, '"client":"')
    agent = edge.settings.agents[0].name
    answer = edge.ask(f"/{agent}/v1/models", key=edge.key, headers={"X-Vllm-Hosts-Client": forged})
    if answer.status in (401, 403):
        raise HostError(f"the edge refuses its own client's key with {answer.status}")
    if lines_with(host, '"client":"') <= before:
        raise HostError("the edge does not log requests of clients")
    others = {replica.host for pool in edge.settings.pools for replica in pool.replicas}
    others.discard(settings.name)
    places_ = [(settings.name, host)]
    places_ += [(name, verified.hosts.get(name)) for name in sorted(others)[:_SEARCHED]]
    believed = [name for name, there in places_ if lines_with(there, forged)]
    if believed:
        raise BrokenError(f"{', '.join(believed)}: served a client under a name that it made up")


@promise("GW-05")
def test_certificates_inside_are_good_for_one_side_only(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    shown = host.check_output("stat --format '%%a %%u:%%g' %s", GATEWAY_FOLDER)
    closed = not int(shown.split()[0], 8) & 0o022 and shown.endswith(" 0:0")
    wrong = [] if closed else [f"{GATEWAY_FOLDER} is {shown}"]
    trusted = verified.project.store.authority.trusted()
    if trusted is None:
        raise HostError("the store has no CA")
    wanted = set(x509.load_pem_x509_certificates(trusted))
    if set(certificates(host, GATEWAY_CA)) - wanted:
        wrong.append(f"{GATEWAY_CA} trusts another CA than the inventory's")
    # A machine that is both has one of each kind.
    if settings.is_gateway:
        wrong += _of_one_side(host, settings, wanted, gateway=True)
    if settings.behind_gateways:
        wrong += _of_one_side(host, settings, wanted, gateway=False)
    assert wrong == []


def _of_one_side(
    host: Host, settings: HostSettings, wanted: set[x509.Certificate], *, gateway: bool
) -> list[str]:
    """What is wrong with the certificate of a gateway, or of a host, as sentences.

    :param wanted: the inventory's CAs.
    """
    own = GATEWAY_CLIENT if gateway else INNER_CERTIFICATE
    key = GATEWAY_CLIENT if gateway else INNER_KEY
    shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", key)
    wrong = [] if shown == "regular file 600 0:0" else [f"{key} is {shown}, not 600 0:0"]
    [certificate] = certificates(host, own)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if gateway else ExtendedKeyUsageOID.SERVER_AUTH
    if purposes(certificate) != {purpose}:
        wrong.append(f"{own} is good for more than one side, or for none")
    now = utc_now()
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        wrong.append(f"{own} is not valid now")
    if gateway:
        [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if name.value != settings.name:
            wrong.append(f"{own} is for {name.value!r}, not for {settings.name}")
    else:
        expected = {inner_name(settings.name, agent.name) for agent in settings.agents}
        if certificate_names(certificate) != expected:
            wrong.append(f"{own} is for other names than this host's agents")
        if settings.tls.mode == "local-ca":
            [public, *_] = certificates(host, TLS_CERTIFICATE)
            if purposes(public) != {ExtendedKeyUsageOID.SERVER_AUTH}:
                wrong.append(f"{TLS_CERTIFICATE} is good for more than a server")
    if not any(signed_by(certificate, ca) for ca in wanted):
        wrong.append(f"{own} is not signed by the inventory's CA")
    return wrong


def certificates(host: Host, path: str) -> list[x509.Certificate]:
    """Those in a file; a key beside them stays where it is.

    :raises HostError: there is none, or it cannot be read.
    """
    text = host.check_output(f"sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' {quote(path)}")
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise HostError(f"{path} has no certificate that can be read") from error


def purposes(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    """What a certificate is good for; empty: for everything."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return set()
    return set(found)
