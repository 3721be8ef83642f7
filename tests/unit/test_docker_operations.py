"""What is done to a host's Docker, its image and its cache of models, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote
from typing import Any

import pytest

from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError
from vllm_hosts.facts.docker import Daemon, ImageFound
from vllm_hosts.facts.docker_state import DockerSays
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.compose import COMPOSE
from vllm_hosts.host.daemon_json import HOOK
from vllm_hosts.host.docker_there import COMPOSE_FLOOR
from vllm_hosts.host.files import NOTHING, File, Found
from vllm_hosts.host.mirror import mirrored_name
from vllm_hosts.host.paths import RAN
from vllm_hosts.operations import docker, model_cache
from vllm_hosts.operations.docker import PULL_SUMMARY, RESTART
from vllm_hosts.settings.mirror import MirrorAt

JSON = "/etc/docker/daemon.json"
WELL = Daemon(True, True, b'{"a": 1}', ())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps(docker, monkeypatch, {"DockerDaemon": WELL})

    def outage(commands: Any, serving: object, what: str, *, outlived: bool) -> Iterator[Any]:
        made.told.append((what, serving, outlived))
        yield from commands

    monkeypatch.setattr(docker, "outage", outage)
    monkeypatch.setattr(docker, "change", lambda entries, **how: ("change", entries, how))
    monkeypatch.setattr(docker, "watched", lambda *given, **how: (*given, *how.values()))
    monkeypatch.setattr(docker, "may_have_changed", made.may_have_changed)
    return made


def configured(steps: Steps, **wanted: Any) -> list[Any]:
    return steps.run(
        docker.daemon_configured, lambda current: wanted, read_at_start=["/x"],
        provided_by=["toolkit"], serving="agents",
    )  # fmt: skip


class TestDaemon:
    RESTARTED = ("restarting Docker", RESTART)

    def test_where_all_is_well_nothing_is_done(self, steps: Steps) -> None:
        assert configured(steps, a=1) == []
        assert steps.told == []
        assert steps.asked == [
            ("DockerDaemon", {"read_at_start": [JSON, HOOK, "/x"]}),
            ("changed", {"what": ["toolkit"]}),
        ]

    def test_what_it_is_made_of_may_be_newer(self, steps: Steps) -> None:
        steps.changed = True
        assert configured(steps, a=1) == [self.RESTARTED]
        assert steps.told == [("Docker is restarted", "agents", True)]

    @pytest.mark.parametrize("running", [True, False])
    def test_other_settings_are_tried_written_and_taken_up(
        self, steps: Steps, running: bool
    ) -> None:
        steps.facts["DockerDaemon"] = replace(WELL, running=running)
        steps.facts["TreeState"] = TreeFound({JSON: NOTHING}, "")
        [(kind, [file], how)] = configured(steps, a=2)
        assert kind == "change" and json.loads(file.content) == {"a": 2}
        assert file == File(JSON, file.content)
        validate = f"dockerd --validate --config-file {JSON}"
        assert how == {"validate": validate, "activate": RESTART}
        told: list[Any] = steps.told
        (name, what, why, entry, look), outage = told
        assert (name, what, why) == ("differs", JSON, "lacks settings, or has different ones")
        assert entry == File(JSON, file.content, partly=True)
        assert look() is NOTHING
        assert steps.asked[-1] == ("TreeState", {"paths": [JSON]})
        words = "Docker is restarted" if running else "Docker is started"
        assert outage == (words, "agents", True)

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            (replace(WELL, stale=("/x",)), "Docker is restarted"),
            (replace(WELL, running=False), "Docker is started"),
        ],
    )
    def test_older_settings_are_left_behind(self, steps: Steps, found: Daemon, words: str) -> None:
        steps.facts["DockerDaemon"] = found
        assert configured(steps, a=1) == [self.RESTARTED]
        why = "does not run, or runs with older settings"
        assert steps.told == [("differs", "docker.service", why), (words, "agents", True)]

    def test_what_another_role_s_files_have_become_is_not_ours(self, steps: Steps) -> None:
        """All are asked about in one question, and each role judges by its own."""
        steps.facts["DockerDaemon"] = replace(WELL, stale=(HOOK,))
        assert configured(steps, a=1) == []
        assert steps.told == []
        steps.facts["DockerDaemon"] = replace(WELL, stale=(HOOK, RAN))
        assert configured(steps, a=1) == [self.RESTARTED]

    def test_it_starts_at_boot(self, steps: Steps) -> None:
        steps.facts["DockerDaemon"] = replace(WELL, enabled=False)
        assert configured(steps, a=1) == [("enabling Docker", "systemctl enable docker.service")]
        assert steps.told == [("differs", "docker.service", "does not start at boot")]


@pytest.mark.parametrize(
    ("version", "executing", "refused"),
    [
        ("2.20.0", True, False),
        ("2.35.1-desktop.1", True, False),
        ("2.20.3+ds1-0ubuntu1", True, False),
        ("2.19.9", True, True),
        ("2.19.9", False, True),
        ("odd", True, True),
        (None, True, True),
        # It comes with the packages that are installed before.
        (None, False, False),
    ],
)
def test_which_compose_will_do(
    steps: Steps, version: str | None, executing: bool, refused: bool
) -> None:
    steps.facts["DockerState"] = DockerSays(compose=version)
    steps.executing = executing
    if not refused:
        assert steps.run(docker.compose_available) == []
        assert steps.asked == [("DockerState", {})]
        return
    with pytest.raises(HostError) as error:
        steps.run(docker.compose_available)
    assert str(error.value) == (
        f"`docker compose` is {version or 'missing'}; {COMPOSE_FLOOR} or newer is needed;"
        " set docker.source = 'docker-ce'"
    )


def test_an_image_is_pulled_where_it_is_missing(steps: Steps) -> None:
    image = "registry.example/a b:1"
    steps.facts["ImageVersion"] = ImageFound("sha256:1", None)
    assert steps.run(docker.image_present, image) == []
    assert steps.asked == [("ImageVersion", {"image": image})]
    steps.facts["ImageVersion"] = ImageFound("", None)
    project = quote('services: {image: {image: "registry.example/a b:1"}}')
    assert steps.run(docker.image_present, image) == [
        (
            f"pulling {image}",
            f"printf %s {project} | {COMPOSE} -p vllm-hosts-pull -f - --progress plain pull",
            f"awk {quote(PULL_SUMMARY)}",
            False,
        )
    ]
    assert steps.told == [("differs", f"image {image}", "is not on the host")]


def test_an_image_is_begun_where_it_is_missing_and_then_waited_for(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = "registry.example/a:1"
    monkeypatch.setattr(docker, "begun_here", lambda command: iter([("begun", *command)]))
    monkeypatch.setattr(docker, "awaited_here", lambda label: ("awaits", label))
    steps.facts["ImageVersion"] = ImageFound("sha256:1", None)
    assert steps.run(docker.image_begun, image) == []
    steps.facts["ImageVersion"] = ImageFound("", None)
    [begun] = steps.run(docker.image_begun, image)
    assert begun[:2] == ("begun", f"pulling {image}")
    assert begun[2].endswith("--progress plain pull")
    # Also where it has come by now: nothing else is asked.
    steps.asked.clear()
    assert steps.run(docker.image_present, image) == [("awaits", f"pulling {image}")]
    assert steps.asked == [] and steps.told == []


def test_a_pull_by_way_of_the_mirror(steps: Steps) -> None:
    image = "registry.example/a:1"
    steps.facts["ImageVersion"] = ImageFound("", None)
    at = MirrorAt(host="gpu9", address="192.0.2.9", port=8444)
    [(label, script, summary, notes)] = steps.run(docker.image_present, image, at)
    compose = f"{COMPOSE} -p vllm-hosts-pull -f - --progress plain pull"
    assert (label, summary, notes) == (f"pulling {image}", f"awk {quote(PULL_SUMMARY)}", True)
    assert [line.strip() for line in script.strip().splitlines()] == [
        f'mirrored="{mirrored_name(at, image)}"',
        """trap 'docker image rm "$mirrored" >/dev/null 2>&1' EXIT""",
        f"""printf 'services: {{image: {{image: "%s"}}}}' "$mirrored" | {compose} ||""",
        'echo "note: the mirror gpu9 does not give the image;" \\',
        '"it comes from its registry"',
        f"""printf %s 'services: {{image: {{image: "{image}"}}}}' | {compose}""",
    ]


FOLDER = Found("d", 0o755, ("root", "0"), ("root", "0"))
MODELS = Found("d", 0o750, ("", "64102"), ("", "64101"))


@pytest.mark.parametrize(
    ("folder", "models", "adopted"),
    [
        (FOLDER, MODELS, False),
        (FOLDER, NOTHING, False),
        (NOTHING, NOTHING, False),
        (NOTHING, replace(MODELS, owner=("", "7")), False),
        (replace(FOLDER, kind="l"), MODELS, True),
        (replace(FOLDER, owner=("x", "7")), MODELS, True),
        (replace(FOLDER, mode=0o775), MODELS, True),
        (replace(FOLDER, mode=0o757), MODELS, True),
        (replace(FOLDER, mode=0o754), MODELS, False),
        (FOLDER, replace(MODELS, owner=("", "64101")), True),
        (FOLDER, replace(MODELS, kind="l"), True),
    ],
)
def test_a_cache_that_agents_could_write_is_converted(
    monkeypatch: pytest.MonkeyPatch, folder: Found, models: Found, adopted: bool
) -> None:
    steps = Steps(model_cache, monkeypatch, {})
    paths = {"/c": folder, "/c/huggingface": models}
    steps.facts["TreeState"] = TreeFound(paths, "")
    done = steps.run(model_cache.cache_adopted, "/c", "64102:64101", "image")
    assert done == [model_cache.adopt_script("/c", "64102:64101", "image")] * adopted
    assert steps.told == [("differs", "/c", "could be written by agents")] * adopted
    assert steps.asked == [("TreeState", {"paths": ["/c", "/c/huggingface"]})]
