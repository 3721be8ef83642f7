"""The mirror's own nginx as it is configured, and the program that fetches models by way of it."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.hub import Hub, Repo, RepoFile, Server
from tests.unit import hub_program
from tests.unit.fleets import with_a_mirror
from tests.unit.real_nginx import environment, program
from vllm_hosts.host.fetching import MIRROR_CA, MIRROR_PEM
from vllm_hosts.keys.pki import LocalCa, Role, utc_now
from vllm_hosts.roles.mirror.plan import configuration
from vllm_hosts.settings.mirror import asking_name

WEIGHTS = b"weights " * 400_000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
CA = LocalCa.create("test", utc_now())
OTHER_CA = LocalCa.create("other", utc_now())
IMAGE = "0123456789abcdef-x86_64"
MANIFEST = b'{"schemaVersion": 2}'


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


def pair(name: str, role: Role = "client", ca: LocalCa = CA) -> str:
    issued = ca.issue((name,), 30, utc_now(), role)
    return (issued.certificate_pem + issued.key_pem.get_secret_value()).decode()


@dataclass
class Serving:
    """A mirror on this machine. ``blob``: the large file of a model that it has."""

    folder: Path
    port: int
    blob: Path

    def ask(self, path: str, pem: str | None, method: str = "GET") -> tuple[int, bytes, str]:
        context = ssl.create_default_context(cadata=CA.certificate_pem.decode())
        if pem:
            file = self.folder / "asking.pem"
            file.write_text(pem)
            context.load_cert_chain(file)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=10, context=context
        )
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Content-Type", "")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder, port = tmp_path_factory.mktemp("mirror"), free_port()
    blob = folder / "hub" / "models--org--model" / "blobs" / DIGEST
    images = folder / "images" / IMAGE
    for made in (folder / "run", folder / "credentials", blob.parent, images):
        made.mkdir(parents=True)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    blob.write_bytes(WEIGHTS)
    (blob.with_name("1" * 64)).symlink_to("/etc/hostname")
    (images / "manifest.oci").write_bytes(MANIFEST)
    (images / ("a" * 64)).write_bytes(b"layer")
    issued = CA.issue(("127.0.0.1",), 30, utc_now(), "server")
    credentials = folder / "credentials"
    (credentials / "certificate.pem").write_bytes(issued.certificate_pem)
    (credentials / "key.pem").write_bytes(issued.key_pem.get_secret_value())
    (credentials / "ca.pem").write_bytes(CA.certificate_pem)
    text = configuration(with_a_mirror(mirror={"port": port})["gpu1"])
    for there, here in (
        ("/run/credentials/vllm-hosts-mirror.service", credentials),
        ("/run/vllm-hosts-mirror", folder / "run"),
        ("/var/lib/vllm-hosts-mirror/images", folder / "images"),
        ("/var/lib/vllm/huggingface/hub", folder / "hub"),
        ("listen ", "listen 127.0.0.1:"),
    ):
        assert there in text
        text = text.replace(there, str(here))
    conf = folder / "nginx.conf"
    conf.write_text(text)
    running = subprocess.Popen(
        [program("nginx"), "-c", str(conf), "-g", "daemon off;"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    made_of = Serving(folder, port, blob)
    for _ in range(100):
        try:
            made_of.ask("/v2/", pair(asking_name("gpu2")))
            break
        except OSError:
            assert running.poll() is None, running.communicate()
            time.sleep(0.1)
    yield made_of
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)


def test_it_answers_hosts_of_the_inventory_that_read(serving: Serving) -> None:
    pem = pair(asking_name("gpu2"))
    assert serving.ask("/v2/", pem)[0] == 200
    of_oci = (200, MANIFEST, "application/vnd.oci.image.manifest.v1+json")
    assert serving.ask(f"/v2/{IMAGE}/manifests/mirrored", pem) == of_oci
    assert serving.ask(f"/v2/{IMAGE}/manifests/sha256:{'b' * 64}", pem) == of_oci
    assert serving.ask(f"/v2/{IMAGE}/blobs/sha256:{'a' * 64}", pem)[:2] == (200, b"layer")
    assert serving.ask(f"/models/models--org--model/{DIGEST}", pem)[:2] == (200, WEIGHTS)


@pytest.mark.parametrize(
    ("pem", "statuses"),
    [
        (None, {400}),
        (pair(asking_name("gpu9")), {403}),
        (pair("gpu2"), {403}),
        (pair(asking_name("gpu2"), "server"), {400}),
        (pair(asking_name("gpu2"), ca=OTHER_CA), {400}),
    ],
    ids=["none", "no host", "as gateways have", "a server's", "of another CA"],
)
def test_it_refuses_everybody_else(serving: Serving, pem: str | None, statuses: set[int]) -> None:
    for path in ("/v2/", f"/models/models--org--model/{DIGEST}"):
        assert serving.ask(path, pem)[0] in statuses, path


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_it_takes_nothing(serving: Serving, method: str) -> None:
    path = f"/v2/{IMAGE}/blobs/sha256:{'a' * 64}"
    assert serving.ask(path, pair(asking_name("gpu2")), method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/models/models--org--model/" + "1" * 64,
        "/models/models--org--model/../../../nginx.conf",
        f"/models/..%2f..%2fcredentials/{DIGEST}",
        f"/v2/{IMAGE}/blobs/sha256:{'c' * 64}",
        f"/v2/{IMAGE}/manifests/latest",
        "/v2/_catalog",
    ],
)
def test_it_has_nothing_else(serving: Serving, path: str) -> None:
    assert serving.ask(path, pair(asking_name("gpu2")))[0] in (400, 403, 404)


class Asking:
    """A host that fetches a model, from a hub of this process."""

    def __init__(self, folder: Path, serving: Serving) -> None:
        files = {"config.json": RepoFile(b"{}"), "m.safetensors": RepoFile(WEIGHTS, weights=True)}
        self.hub = Hub({"org/model": Repo(files)}, folder / "tokens")
        self.server = Server(self.hub, "127.0.0.1", 0)
        port = self.server.server_address[1]
        self.hub.cdn = f"http://localhost:{port}"
        self.place = f"127.0.0.1:{serving.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HF_HOME": str(folder / "hf"),
            "HOME": "/nowhere",
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            MIRROR_CA: CA.certificate_pem.decode(),
            MIRROR_PEM: pair(asking_name("gpu2")),
        }
        self.blob = folder / "hf/hub/models--org--model/blobs" / DIGEST

    def run(self) -> tuple[int, str]:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        done = hub_program.run("org/model", "--mirror", self.place, environment=self.environment)
        self.server.shutdown()
        return done.returncode, done.stderr

    def large(self) -> list[tuple[str, str]]:
        """Requests for bytes of the large file that came to the hub, with their ranges."""
        return [(path, span) for how, path, span, _ in self.hub.asked if "/cdn/" in path]


@pytest.fixture
def asking(tmp_path: Path, serving: Serving) -> Asking:
    return Asking(tmp_path, serving)


def test_large_files_come_from_the_mirror_and_the_list_from_the_hub(asking: Asking) -> None:
    code, said = asking.run()
    assert (code, "note:" in said) == (0, False), said
    assert asking.large() == []
    assert any("/api/models/org/model" in path for _, path, *_ in asking.hub.asked)
    assert asking.blob.read_bytes() == WEIGHTS


def test_a_file_goes_on_where_it_broke_off(asking: Asking) -> None:
    asking.blob.parent.mkdir(parents=True)
    asking.blob.with_name(f"{DIGEST}.partial").write_bytes(WEIGHTS[:100_000])
    assert asking.run()[0] == 0
    assert (asking.large(), asking.blob.read_bytes()) == ([], WEIGHTS)


def test_a_mirror_that_gives_other_bytes_is_not_believed(asking: Asking, serving: Serving) -> None:
    serving.blob.write_bytes(b"x" + WEIGHTS[1:])
    try:
        assert asking.run()[0] == 0
    finally:
        serving.blob.write_bytes(WEIGHTS)
    assert len(asking.large()) == 1
    assert asking.blob.read_bytes() == WEIGHTS


@pytest.mark.parametrize("fault", ["gone", "down", "refuses", "another CA", "short"])
def test_what_the_mirror_does_not_give_comes_from_the_hub(
    asking: Asking, serving: Serving, fault: str
) -> None:
    if fault == "gone":
        serving.blob.rename(serving.blob.with_suffix(".away"))
    elif fault == "short":
        serving.blob.write_bytes(WEIGHTS[:1_000_000])
    elif fault == "down":
        asking.place = f"127.0.0.1:{free_port()}"
    elif fault == "refuses":
        asking.environment[MIRROR_PEM] = pair(asking_name("gpu9"))
    else:
        asking.environment[MIRROR_CA] = OTHER_CA.certificate_pem.decode()
    try:
        code, said = asking.run()
    finally:
        serving.blob.write_bytes(WEIGHTS)
    assert code == 0, said
    [note] = [line for line in said.splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: the mirror {asking.place} ")
    assert note.endswith("; it comes from the hub")
    [(_, span)] = asking.large()
    assert span == ("bytes=1000000-" if fault == "short" else "")
    assert asking.blob.read_bytes() == WEIGHTS
