"""Settings by section: defaults, bounds, and what one section's own settings rule out."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version
from pydantic import ValidationError

from vllm_hosts.settings import sections
from vllm_hosts.settings.sections import Secrets, Tls
from vllm_hosts.settings.types import Section
from vllm_hosts.settings.vllm import VLLM_FLOOR, Vllm

FILES = {"mode": "files", "certificate": "c.pem", "key": "c.key"}
PATH_OF_KEYS = "https://nvidia.github.io/libnvidia-container"


def made(name: str, **values: Any) -> Section:
    section: Section = Vllm(**values) if name == "Vllm" else getattr(sections, name)(**values)
    return section


def refused(name: str, **values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        made(name, **values)
    [problem] = error.value.errors()
    return problem["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "Docker",
            {
                "source": "docker-ce",
                "archive_url": "https://download.docker.com/linux",
                "key_url": None,
                # As https://docs.docker.com/engine/install/debian/ has it.
                "key_fingerprint": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
                "log_max_size": "50m",
                "log_max_file": 3,
                "live_restore": True,
                "container_folders": (),
                "group_members": (),
            },
        ),
        (
            "Nvidia",
            {
                "driver": "present",
                "driver_source": "distro",
                "driver_series": None,
                "allow_reboot": False,
                "reboot_timeout": 900,
                "driver_archive_url": "https://developer.download.nvidia.com/compute/cuda/repos",
                "driver_key_url": None,
                "driver_key_fingerprint": None,
                "toolkit_version": "1.20.1-1",
                "archive_url": f"{PATH_OF_KEYS}/stable/deb",
                "key_url": f"{PATH_OF_KEYS}/gpgkey",
                "key_fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
            },
        ),
        (
            "Firewall",
            {"ssh_from": (), "extra_tcp_ports": (), "extra_udp_ports": (), "forward_from": ()},
        ),
        ("SshHardening", {"enabled": False}),
        (
            "Secrets",
            {
                f"{name}_{kind}": None
                for name in ("hf_token", "internal_key", "sudo_password")
                for kind in ("env", "command")
            },
        ),
        ("Hub", {"endpoint": None, "connections": 4}),
        ("Capacity", {"preflight": "refuse", "gpu_memory": None}),
        (
            "Tls",
            {
                "mode": "local-ca",
                "certificate": None,
                "key": None,
                "ca_file": None,
                "valid_days": 365,
                "renew_before_days": 120,
            },
        ),
    ],
)
def test_what_holds_where_nothing_is_set(name: str, wanted: dict[str, Any]) -> None:
    assert made(name).model_dump() == wanted


def test_what_holds_of_vllm_where_nothing_is_set() -> None:
    found = Vllm().model_dump()
    assert str(found.pop("network")) == "198.18.0.0/16"
    assert found == {
        "image": "vllm/vllm-openai:v0.33.0",
        "version": None,
        "directory": "/opt/vllm",
        "cache_directory": "/var/lib/vllm",
        "user": "64101:64101",
        "fetch_user": "64102:64101",
        "image_disk": 40,
        "model_disk": 20,
        "health_timeout": 1800,
        "change_together": False,
        "roll_back": True,
        "drain_timeout": 20,
        "watchdog": True,
        "watchdog_interval": 30,
        "watchdog_looks": 10,
        "watchdog_restarts": 3,
    }


@pytest.mark.parametrize(
    ("name", "setting", "least", "most", "beside"),
    [
        ("Docker", "log_max_file", 1, 100, {}),
        ("Nvidia", "driver_series", 470, 999, {}),
        ("Nvidia", "reboot_timeout", 30, None, {}),
        ("Hub", "connections", 1, 32, {}),
        ("Tls", "valid_days", 2, 366, {"renew_before_days": 1}),
        ("Tls", "renew_before_days", 1, None, {}),
        ("Vllm", "image_disk", 1, None, {}),
        ("Vllm", "model_disk", 1, None, {}),
        ("Vllm", "health_timeout", 10, None, {}),
        ("Vllm", "drain_timeout", 0, 3600, {}),
        ("Vllm", "watchdog_interval", 5, 600, {}),
        ("Vllm", "watchdog_looks", 3, 100, {}),
        ("Vllm", "watchdog_restarts", 1, 10, {}),
    ],
)
def test_how_far_a_number_goes(
    name: str, setting: str, least: int, most: int | None, beside: dict[str, Any]
) -> None:
    assert getattr(made(name, **beside, **{setting: least}), setting) == least
    assert "greater than or equal" in refused(name, **beside, **{setting: least - 1})
    if most is not None:
        assert getattr(made(name, **beside, **{setting: most}), setting) == most
        assert "less than or equal" in refused(name, **beside, **{setting: most + 1})


def test_memory_of_cards_that_cannot_be_asked() -> None:
    for value in (0.1, 24, "80", 10000):
        assert made("Capacity", gpu_memory=value)
    assert "greater than 0" in refused("Capacity", gpu_memory=0)
    assert "less than or equal to 10000" in refused("Capacity", gpu_memory=10000.5)


def test_lists_may_be_lists() -> None:
    """Users write lists, and nobody else can add to what is kept."""
    for name, setting, values in (
        ("Docker", "container_folders", ["/srv/x"]),
        ("Docker", "group_members", ["alice"]),
        ("Firewall", "extra_tcp_ports", [9100]),
        ("Firewall", "extra_udp_ports", [51820]),
        ("Firewall", "forward_from", ["wg0"]),
    ):
        assert getattr(made(name, **{setting: values}), setting) == tuple(values)
    [network] = made("Firewall", ssh_from=["10.0.0.0/8"]).ssh_from  # type: ignore[attr-defined]
    assert str(network) == "10.0.0.0/8"


# Secrets.


@pytest.mark.parametrize("name", ["hf_token", "internal_key", "sudo_password"])
def test_each_secret_has_one_source(name: str) -> None:
    env, command = {f"{name}_env": "X"}, {f"{name}_command": "pass show x"}
    assert refused("Secrets", **env, **command) == (
        f"secrets.{name}_env and secrets.{name}_command exclude each other; remove one"
    )
    assert made("Secrets", **env)
    assert made("Secrets", **command)
    assert "at least 1 character" in refused("Secrets", **{f"{name}_command": ""})


def test_who_has_a_token() -> None:
    assert Secrets(hf_token_env="X").has_hf_token is True
    assert Secrets(hf_token_command="x").has_hf_token is True
    assert Secrets(internal_key_env="X", sudo_password_env="X").has_hf_token is False


# Certificates.


@pytest.mark.parametrize("lacking", ["certificate", "key"])
@pytest.mark.parametrize("value", [None, ""])
def test_files_have_to_be_named(lacking: str, value: str | None) -> None:
    assert refused("Tls", **FILES | {lacking: value}) == (
        f"tls.mode is 'files' but tls.{lacking} names no file; set it, or tls.mode = 'local-ca'"
    )


@pytest.mark.parametrize("name", ["certificate", "key", "ca_file"])
def test_files_that_nobody_would_read_are_refused(name: str) -> None:
    """Or somebody believes that their certificate is the one in use."""
    assert refused("Tls", **{name: "x.pem"}) == (
        f"tls.{name} is only for tls.mode = 'files', and here it is 'local-ca'; remove tls.{name},"
        " or set tls.mode"
    )
    assert Tls.model_validate(FILES | {"ca_file": "x.pem"}).ca_file == "x.pem"
    assert Tls.model_validate(FILES).ca_file is None


def test_a_certificate_is_not_renewed_at_every_deploy() -> None:
    wanted = "tls.renew_before_days must be smaller than tls.valid_days"
    assert refused("Tls", valid_days=30, renew_before_days=30) == wanted
    assert refused("Tls", valid_days=30) == wanted
    assert Tls(valid_days=30, renew_before_days=29)


# The image.


@pytest.mark.parametrize("tag", ["", ":latest", ":nightly", ":main", ":stable", ":dev"])
@pytest.mark.parametrize("name", ["vllm/vllm-openai", "registry.example:5000/vllm"])
def test_an_image_is_one_that_stays(name: str, tag: str) -> None:
    image = f"{name}{tag}"
    assert refused("Vllm", image=image, version="0.33.0") == (
        f"{image!r} can change without notice; name an exact tag such as ':v0.33.0' or a digest"
    )


@pytest.mark.parametrize(
    ("image", "version", "found"),
    [
        ("vllm/vllm-openai:v0.32.0", None, "0.32.0"),
        ("registry.example:5000/x/vllm:v0.33.1-cu129", None, "0.33.1"),
        ("x:0.33.0rc1", None, "0.33.0rc1"),
        ("x:v0.33.0@sha256:" + "a" * 64, None, "0.33.0"),
        ("x@sha256:" + "a" * 64, "0.34.0", "0.34.0"),
        ("x:latest@sha256:" + "a" * 64, "0.34", "0.34"),
        ("x:25.12", "0.33.0", "0.33.0"),
        ("x:9.0", None, "9.0"),
    ],
)
def test_versions_of_images(image: str, version: str | None, found: str) -> None:
    assert Vllm(image=image, version=version).vllm_version == Version(found)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("x:25.12", None),
        ("x:10.0", None),
        ("x:7", None),
        ("x:20251101", None),
        ("x:gaudi", None),
        ("registry.example:5000/vllm@sha256:" + "a" * 64, None),
        ("x:v0.33.0", "new"),
        ("x:v0.33.0", ""),
        ("x:v0.33.0", "7"),
    ],
)
def test_a_version_that_cannot_be_read_is_asked_for(image: str, version: str | None) -> None:
    """A date or a build number is above every floor."""
    assert refused("Vllm", image=image, version=version) == (
        f"the version of vLLM cannot be read from {image!r}; set vllm.version, such as '0.33.0'"
    )


@pytest.mark.parametrize(
    ("image", "version", "said"),
    [
        ("x:v0.31.9", None, "0.31.9"),
        ("x:v0.32.0rc1", None, "0.32.0rc1"),
        ("x:v0.33.0", "0.31", "0.31"),
        ("x@sha256:" + "a" * 64, "0.1.0", "0.1.0"),
    ],
)
def test_no_vllm_whose_key_is_bypassed(image: str, version: str | None, said: str) -> None:
    assert Version("0.32.0") == VLLM_FLOOR
    assert refused("Vllm", image=image, version=version) == (
        f"vLLM {said} has known vulnerabilities that bypass its key; use 0.32.0 or newer"
    )


@pytest.mark.parametrize(
    ("user", "fetch_user"),
    [
        ("64101:64101", "64101:64101"),
        ("0:64101", "64102:64101"),
        ("64101:64101", "0:64101"),
        ("64101:64101", "64102:64102"),
        ("64101:1", "64102:64101"),
    ],
)
def test_agents_cannot_change_models_and_nobody_is_root(user: str, fetch_user: str) -> None:
    assert refused("Vllm", user=user, fetch_user=fetch_user) == (
        f"vllm.fetch_user {fetch_user} must be another user than vllm.user {user}, in the same"
        " group, and neither may be root, so that agents can read models and not change them"
    )


@pytest.mark.parametrize("name", ["user", "fetch_user"])
def test_root_is_not_reached_under_another_name(name: str) -> None:
    """Docker reads a number, for which 00 is 0."""
    assert refused("Vllm", **{name: "00:64101"}) == (
        "'00:64101' is not a numeric user and group such as '64101:64101'"
    )


def test_other_users() -> None:
    assert Vllm(user="1:3", fetch_user="2:3").user == "1:3"
    assert Vllm(user="1:0", fetch_user="2:0").fetch_user == "2:0"
