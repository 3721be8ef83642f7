"""All of deploy.py where an inventory has a mirror: on it, and on a host that asks it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit import recorded_looks as looks
from tests.unit.fleets import with_a_mirror
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, Run
from tests.unit.samples import settings
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import File, Kept
from vllm_hosts.host.mirror import image_key
from vllm_hosts.host.paths import (
    MIRROR_CA,
    MIRROR_CERTIFICATE,
    MIRROR_CONF,
    MIRROR_IMAGES,
    MIRROR_KEY,
    MIRROR_STATE,
    MIRROR_UNIT,
)
from vllm_hosts.hub.hub_models import Fetched
from vllm_hosts.keys.pki import LocalCa, certificate_names, utc_now
from vllm_hosts.roles.mirror import mirror
from vllm_hosts.roles.mirror.plan import Signing, asking_entries, asking_pair, serving_certificates
from vllm_hosts.roles.models import models
from vllm_hosts.roles.ownership import ownership
from vllm_hosts.roles.vllm_image import vllm_image, vllm_image_begun
from vllm_hosts.settings.mirror import asking_name

CERTS = "/etc/docker/certs.d/192.0.2.11:8444"
NOTHING, DONE = Fetched(None, "", {}, {}), Fetched("c" * 40, "c" * 40, looks.FILES, looks.FILES)
KNOWN = {"Qwen/Qwen3-8B": NOTHING, "org/two": NOTHING, "org/three": NOTHING}


def recorder(folder: Path, name: str) -> Recorder:
    """A host of the inventory that was just installed."""
    wanted = with_a_mirror()[name]
    host = Host(wanted, looks.FRESH, looks.AFTER, offered=looks.OFFERED)
    host.facts["HubModels"] = dict(KNOWN)
    key = image_key(wanted.vllm.image)
    mirrored = replace(host.facts["MirrorState"], images=frozenset({key}), data=True)
    host.after = {
        **looks.AFTER,
        "fetching Qwen/Qwen3-8B": {"HubModels": KNOWN | {"Qwen/Qwen3-8B": DONE}},
        "fetching org/two: ": {"HubModels": dict.fromkeys(KNOWN, DONE)},
        "fetching org/two for others": {
            "HubModels": KNOWN | {"Qwen/Qwen3-8B": DONE, "org/two": DONE}
        },
        "fetching org/three for others": {"HubModels": dict.fromkeys(KNOWN, DONE)},
        "mirroring vllm/": {"MirrorState": mirrored},
    }
    return Recorder(folder, host)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Run]:
    """The mirror after its first deploy of the roles that know of it. Not to be changed."""
    made = recorder(tmp_path_factory.mktemp("mirror"), "gpu1")
    return made, made.run(ownership, mirror, models)


def certificate(recorder: Recorder, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(recorder.host.contents[path])


def test_the_mirror_has_all_of_it_before_others_ask(deployed: tuple[Recorder, Run]) -> None:
    _, done = deployed
    assert not done.failed, done.said
    assert [name.partition(" | ")[2] for name in done.names][2:] == [
        "Nothing of another mirror is left",
        "The mirror knows this host by a certificate",
        "skopeo is installed",
        "Hosts know the mirror by a certificate",
        "The mirror is configured and its nginx has loaded it",
        "The mirror runs, now and at boot",
        "The mirror has the images of all hosts",
        "The mirror has its own image",
        "No agent can write into the models' cache",
        "The models' cache is there",
        "The mirror's own models are complete",
        "The mirror has what other hosts need",
        "Models from the hub are complete",
        "Models from the controller are complete",
    ]


def test_its_keys_are_for_root_and_its_certificate_for_its_address(
    deployed: tuple[Recorder, Run],
) -> None:
    made, done = deployed
    assert MIRROR_CONF in done["The mirror is configured and its nginx has loaded it"].written
    written = done["Hosts know the mirror by a certificate"].written
    assert set(written) >= {MIRROR_CA, MIRROR_CERTIFICATE, MIRROR_KEY}
    assert "0600" in str(written[MIRROR_KEY])
    own = certificate(made, MIRROR_CERTIFICATE)
    assert certificate_names(own) == {"192.0.2.11"}
    asking = certificate(made, f"{CERTS}/client.cert")
    usage = asking.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    [name] = asking.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == asking_name("gpu1")
    assert asking_name("gpu3") in made.host.contents[MIRROR_CONF].decode()


def test_who_can_enter_its_folders(deployed: tuple[Recorder, Run]) -> None:
    """Docker reads certificates as root; nginx of the mirror reads images as a group."""
    paths = deployed[0].host.paths
    assert (paths[CERTS].mode, paths[CERTS].group[0]) == (0o700, "root")
    group = settings().vllm.fetch_user.partition(":")[2]
    for path in (MIRROR_STATE, MIRROR_IMAGES):
        assert (paths[path].mode, paths[path].group[0]) == (0o750, group)


def test_keys_are_secret_and_stay_while_their_certificates_are_good(
    deployed: tuple[Recorder, Run],
) -> None:
    wanted, now = deployed[0].host.settings, utc_now()
    ca = LocalCa.create("prod", now)
    by = Signing(ca, ca.certificate_pem, now)
    for entries in (asking_entries, serving_certificates):
        *_, shown, key = entries(wanted, Certificate(None, None), by)
        assert isinstance(shown, File) and isinstance(key, File)
        assert (shown.mode, shown.secret) == (0o644, False)
        assert (key.mode, key.secret) == (0o600, True)
        public = (
            load_pem_private_key(key.content, None)
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        *_, kept, kept_key = entries(wanted, Certificate(shown.content, public), by)
        assert (kept, kept_key) == (Kept(shown.path), Kept(key.path, 0o600))
        later = replace(by, renew_since=now + timedelta(seconds=1))
        assert isinstance(entries(wanted, Certificate(shown.content, public), later)[-1], File)
    with pytest.raises(FrozenInstanceError):
        by.renew_since = now  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        asking_pair(wanted).role = "server"  # type: ignore[misc]


def test_a_new_certificate_is_said(deployed: tuple[Recorder, Run]) -> None:
    _, done = deployed
    said = [line for line in done.said if "certificate for the mirror" in line]
    assert len(said) == 2
    assert said[0].startswith("it gets a new certificate for the mirror: there is none")
    assert {name.partition(" | ")[0] for name in done.names[2:10]} == {"Mirror"}


def test_no_key_is_in_a_command(deployed: tuple[Recorder, Run]) -> None:
    _, done = deployed
    commands = [command for one in done.operations for command in one.commands]
    assert not [command for command in commands if "PRIVATE KEY" in command]


def test_a_second_run_changes_nothing(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    recorder = deployed[0].copied(tmp_path)
    done = recorder.run(ownership, mirror, models)
    assert (done.failed, done.changed, done.said) == (False, [], [])


def test_others_get_the_image_by_way_of_it_and_its_name_from_the_registry(tmp_path: Path) -> None:
    recorded = recorder(tmp_path, "gpu2")
    done = recorded.run(vllm_image_begun, mirror, vllm_image, models)
    assert not done.failed, done.said
    # The mirror has to be there first.
    assert recorded.beside == []
    pull = done["The vLLM image is on the host"]
    image = settings().vllm.image
    assert f"192.0.2.11:8444/{image_key(image)}-$(uname -m):mirrored" in pull
    assert image in pull
    assert "the mirror gpu1 does not give the image" in pull
    assert not [name for name in done.names if "has the images of all" in name]
    written = done["The mirror knows this host by a certificate"].written
    assert {path for path in written if path.startswith(CERTS)} >= {
        f"{CERTS}/ca.crt",
        f"{CERTS}/client.cert",
        f"{CERTS}/client.key",
    }
    fetch = done["Models from the hub are complete"]
    assert "--mirror 192.0.2.11:8444" in fetch
    assert f"cat {CERTS}/client.cert {CERTS}/client.key" in fetch


@pytest.mark.parametrize(("name", "mirrors"), [("gpu1", True), ("gpu2", False)])
def test_without_the_group_nothing_is_left(tmp_path: Path, name: str, mirrors: bool) -> None:
    made = recorder(tmp_path, name)
    assert not made.run(mirror).failed
    nothing = {"mirror_at": None, "mirror_for": ()}
    made.host.settings = made.host.settings.model_copy(update=nothing)
    done = made.run(mirror)
    left = done["Nothing of another mirror is left"]
    assert set(left.written.values()) == {None}
    assert not [path for path in made.host.contents if "mirror" in path or CERTS in path]
    assert (f"systemctl disable --quiet --now {MIRROR_UNIT}" in left) == mirrors
    assert ("rm -rf --one-file-system /var/lib/vllm-hosts-mirror" in left) == mirrors
    again = made.run(mirror)
    assert (again.failed, again.changed) == (False, [])


def test_a_mirror_that_moves_is_known_at_its_new_place_only(tmp_path: Path) -> None:
    made = recorder(tmp_path, "gpu2")
    assert not made.run(mirror).failed
    at = made.host.settings.mirror_at
    assert at is not None
    moved = {"mirror_at": replace(at, port=9444)}
    made.host.settings = made.host.settings.model_copy(update=moved)
    assert not made.run(mirror).failed
    folders = {path.rpartition("/")[0] for path in made.host.contents if "certs.d" in path}
    assert folders == {"/etc/docker/certs.d/192.0.2.11:9444"}
