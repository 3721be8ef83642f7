"""What one host fetches for all: who may ask it, and what it may be."""

from __future__ import annotations

from shlex import quote

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.keys.pki import signed_by, utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.mirror import asking_name
from vllm_hosts.suite.conftest import Verified
from vllm_hosts.suite.doors import askers_of
from vllm_hosts.suite.looks import Outside
from vllm_hosts.suite.mirror_callers import callers
from vllm_hosts.suite.packets import Table, listing
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs
from vllm_hosts.suite.test_firewall import open_wrongly
from vllm_hosts.suite.test_gateways import certificates, purposes

_UNIT = "vllm-hosts-mirror"
#: What a server says that refuses whoever asks; 0: it hung up.
_REFUSED = {0, 400, 403, 405, 495, 496}
#: What nobody but root may read, and the edge's nginx in part; as far as it is there.
_SECRETS = (
    "/etc/vllm-hosts/tls/key.pem",
    "/etc/vllm-hosts/mirror/key.pem",
    "/etc/nginx/vllm-hosts/internal.map",
    "/etc/nginx/vllm-hosts/clients.map",
    "/etc/shadow",
)
#: Of each process of the unit: its user, its privileges, and whether it may get more.
_PROCESSES = r"""
for process in $(cat /sys/fs/cgroup$(systemctl show -p ControlGroup --value {unit})/cgroup.procs)
do
    sed -n 's/^\(Uid\|CapEff\|CapBnd\|NoNewPrivs\):[[:space:]]*\([^[:space:]]*\).*/\1=\2/p' \
        /proc/$process/status | tr '\n' ' '
    sed -n 's/^Groups:[[:space:]]*//p' /proc/$process/status | tr ' ' ',' | sed 's/,*$//'
done
"""


@promise("MIRROR-01")
def test_only_hosts_of_the_inventory_reach_the_mirror(
    host: Host, settings: HostSettings, outside: Outside
) -> None:
    port = settings.mirror.port
    table = Table(listing(host.check_output("nft -t -j list table inet vllm_hosts")))
    wrong = open_wrongly(table, settings, outside, port, askers_of(settings), table.addresses())
    assert wrong == []


@promise("MIRROR-02")
def test_the_mirror_answers_hosts_of_the_inventory_that_read(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    unit_runs(host, _UNIT)
    answers = callers(host, settings, verified.project.store.authority)
    if answers.host != 200:
        raise BrokenError(f"the mirror answers a host of the inventory with {answers.host}")
    wrong = [f"{who} got {status}" for who, status in answers.others.items()]
    assert [one for one in wrong if int(one.rpartition(" ")[2]) not in _REFUSED] == []


@promise("MIRROR-03")
def test_the_mirror_s_nginx_has_nothing_else(host: Host, settings: HostSettings) -> None:
    unit_runs(host, _UNIT)
    lines = host.check_output(f"bash -c {quote(_PROCESSES.format(unit=_UNIT))}").splitlines()
    if not lines:
        raise HostError("the mirror's processes cannot be seen")
    wrong = []
    readers = settings.vllm.fetch_user.partition(":")[2]
    others = {"0", host.check_output("id -u www-data"), settings.vllm.fetch_user.partition(":")[0]}
    for line in dict.fromkeys(lines):
        *words, groups = line.split(" ")
        seen = dict(word.split("=", 1) for word in words if "=" in word)
        groups = groups if "=" not in groups else ""
        if seen["Uid"] in others:
            wrong.append(f"it runs as user {seen['Uid']}")
        if int(seen["CapEff"], 16) or int(seen["CapBnd"], 16) or seen["NoNewPrivs"] != "1":
            wrong.append(f"it has privileges, or may get some: {line}")
        if strange := set(groups.split(",")) - {readers, seen["Uid"], ""}:
            wrong.append(f"it is in the groups {', '.join(sorted(strange))}")
        secrets = " ".join(map(quote, (*_SECRETS, f"{settings.vllm.directory}/.env")))
        reads = host.check_output(
            f"setpriv --reuid {seen['Uid']} --regid {seen['Uid']} --groups {readers}"
            f" sh -c 'for path in {secrets}; do [ ! -r $path ] || echo $path; done'"
        )
        wrong += [f"it can read {path}" for path in reads.splitlines()]
    assert wrong == []


@promise("MIRROR-04")
def test_certificates_for_the_mirror_only_ask(
    host: Host, settings: HostSettings, verified: Verified
) -> None:
    at = settings.mirror_at
    assert at is not None
    folder = f"/etc/docker/certs.d/{at.place}"
    trusted = verified.project.store.authority.trusted()
    if trusted is None:
        raise HostError("the store has no CA")
    wanted = set(x509.load_pem_x509_certificates(trusted))
    wrong = []
    shown = host.check_output("stat --format '%%F %%a %%u:%%g' %s", f"{folder}/client.key")
    if shown != "regular file 600 0:0":
        wrong.append(f"{folder}/client.key is {shown}, not 600 0:0")
    changeable = host.check_output(f"find {quote(folder)} ! -user root -o -perm /022")
    wrong += [f"{path} is not root's alone" for path in changeable.splitlines()]
    if set(certificates(host, f"{folder}/ca.crt")) - wanted:
        wrong.append(f"{folder}/ca.crt trusts another CA than the inventory's")
    [certificate] = certificates(host, f"{folder}/client.cert")
    if purposes(certificate) != {ExtendedKeyUsageOID.CLIENT_AUTH}:
        wrong.append("the certificate is good for more than to ask")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [asking_name(settings.name)]:
        wrong.append("the certificate is for another name than this host's")
    if not any(signed_by(certificate, ca) for ca in wanted):
        wrong.append("the certificate is not signed by the inventory's CA")
    if not certificate.not_valid_before_utc <= utc_now() < certificate.not_valid_after_utc:
        wrong.append("the certificate is not valid now")
    assert wrong == []
