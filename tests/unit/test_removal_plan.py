"""What remove.py takes away from a host, and what it leaves there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from tests.unit.driver_hosts import DEBIAN_13, UBUNTU_24
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.host import daemon_json
from vllm_hosts.host.manifest import Before, Manifest, manifest_of, recorded_files
from vllm_hosts.host.nginx import only_raised
from vllm_hosts.host.packages import Package, alternatives, removable
from vllm_hosts.host.remains import DockerHolds, Inhabitant, Inside, Remains
from vllm_hosts.roles.docker.plan import CE_PACKAGES, daemon_settings, distro_packages
from vllm_hosts.roles.nvidia_container_toolkit.plan import RUNTIME
from vllm_hosts.roles.removal import plan
from vllm_hosts.roles.removal.plan import Removal, given_way, left
from vllm_hosts.roles.removal.words import goes, stays
from vllm_hosts.settings import Docker

IMAGE, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
AGENT = Inhabitant("a" * 64, "qwen", ours=True, running=True)
THEIRS = Inhabitant("b" * 64, "db", ours=False, running=True)


def packages(*lines: str) -> dict[str, Package]:
    """From lines such as ``nginx: nginx-common, libc6``; one that came by itself has a star."""
    found = {}
    for line in lines:
        name, _, needs = line.partition(":")
        found[name.rstrip("*")] = Package(name.endswith("*"), alternatives(needs))
    return found


INSTALLED = packages(
    "libc6", "init: libc6", "nginx: nginx-common", "nginx-common*: libc6", "nftables: libnft",
    "libnft*: libc6", "docker-ce: containerd.io, iptables", "containerd.io: libc6",
    "iptables*: libnft, libc6", "nvidia-container-toolkit-base: libnv", "libnv: libc6",
)  # fmt: skip
OURS = frozenset(
    {"nginx", "nftables", "docker-ce", "containerd.io", "nvidia-container-toolkit-base", "libnv"}
)
HAD = frozenset({"libc6", "init"})


class TestPackages:
    def test_what_we_asked_for_goes_with_what_came_along(self) -> None:
        assert removable(INSTALLED, OURS, HAD) == sorted(set(INSTALLED) - HAD)

    def test_what_was_there_before_stays(self) -> None:
        assert "nginx" not in removable(INSTALLED, OURS, HAD | {"nginx", "nginx-common"})

    def test_what_somebody_else_needs_since_stays_with_all_that_it_needs(self) -> None:
        more = INSTALLED | packages("certbot-nginx: nginx")
        going = removable(more, OURS, HAD)
        assert not {"nginx", "nginx-common", "certbot-nginx"} & set(going)
        assert "docker-ce" in going

    def test_a_recommendation_counts_for_newcomers_alone(self) -> None:
        likes = (("nginx",),)
        newcomer = INSTALLED | {"wiki": replace(Package(), likes=likes)}
        assert "nginx" not in removable(newcomer, OURS, HAD)
        # It did without before.
        old = INSTALLED | {"init": Package(needs=(("libc6",),), likes=likes)}
        assert "nginx" in removable(old, OURS, HAD)

    def test_an_alternative_that_stays_is_enough(self) -> None:
        more = INSTALLED | packages("wiki: apache2 | nginx", "apache2")
        assert "nginx" in removable(more, OURS, HAD)
        assert "nginx" not in removable(more, OURS | {"apache2"}, HAD)

    def test_a_name_that_a_package_provides(self) -> None:
        more = INSTALLED | packages("wiki: httpd")
        more["nginx"] = replace(more["nginx"], provides=frozenset({"httpd"}))
        assert "nginx" not in removable(more, OURS, HAD)

    def test_a_library_that_somebody_asked_for_since_stays(self) -> None:
        mine = INSTALLED | {"libnft": Package(needs=(("libc6",),))}
        assert "libnft" not in removable(mine, OURS, HAD)

    def test_what_is_named_stays_with_what_it_needs(self) -> None:
        going = removable(INSTALLED, OURS, HAD, {"docker-ce"})
        assert going == [
            "libnv",
            "nftables",
            "nginx",
            "nginx-common",
            "nvidia-container-toolkit-base",
        ]

    def test_what_nobody_of_ours_brought_is_never_touched(self) -> None:
        assert "orphan" not in removable(INSTALLED | packages("orphan*: libc6"), OURS, HAD)


def removal(
    *containers: Inhabitant,
    had: Iterable[str] = (),
    before: Before | None = Before(packages=HAD),  # noqa: B008
    models: bool = False,
    docker: dict[str, Any] | None = None,
    **changes: Any,
) -> Removal:
    """A host after some deploys."""
    if before is not None and had:
        before = replace(before, packages=HAD | set(had))
    manifest = Manifest(
        before=before,
        files=("/etc/nginx/conf.d/vllm-hosts.conf", "/etc/docker/daemon.json", "/opt/vllm/.env"),
        packages=OURS,
        held=frozenset({"nvidia-container-toolkit-base"}),
        sources=("/etc/apt/keyrings/docker.asc", "/etc/apt/sources.list.d/docker.sources",
                 "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"),
        gave_way={"/etc/apt/sources.list.d/docker.list": ""},
        models=("/srv/models/coder",),
    )  # fmt: skip
    holds = DockerHolds(True, True, containers, images=frozenset({IMAGE}), ours=frozenset({IMAGE}))
    remains = Remains(
        manifest,
        INSTALLED,
        frozenset({"nvidia-container-toolkit-base"}),
        replace(holds, **(docker or {})),
    )
    return Removal(settings(), replace(remains, **changes), models)


class TestDocker:
    def test_it_goes_where_only_we_used_it(self) -> None:
        assert removal(AGENT).docker_stays == ""
        assert "docker-ce" in removal(AGENT).packages(firewall=False)

    @pytest.mark.parametrize(
        ("there", "why"),
        [
            ({"containers": (AGENT, THEIRS)}, "it has other containers: db"),
            ({"volumes": ("a", "b", "c", "d")}, "it has other volumes: a, b, c and 1 more"),
            ({"others_networks": ("theirs",)}, "it has other networks: theirs"),
            ({"images": frozenset({IMAGE, OTHER})}, "it has other images: 222222222222"),
        ],
    )
    def test_it_stays_where_others_use_it(self, there: dict[str, Any], why: str) -> None:
        found = removal(docker=there)
        assert found.docker_stays == why
        assert not {"docker-ce", "containerd.io", "iptables"} & set(found.packages(firewall=True))
        # With what brings its updates.
        assert [path for path in found.sources if "docker" in path] == []
        assert f"Docker stays: {why}" in list(stays(found))
        assert found.left_by_packages == [] and found.groups == []

    def test_it_stays_where_it_was_there_before_and_what_we_added_goes(self) -> None:
        found = removal(had={"docker-ce", "containerd.io", "iptables", "libnft"})
        assert found.docker_stays == "it was there before"
        assert "nvidia-container-toolkit-base" in found.packages(firewall=True)
        assert [path for path in found.sources if "docker" in path] != []

    def test_ours_in_the_place_of_the_distribution_s_stays(self) -> None:
        found = removal(had={"docker.io"})
        assert "docker-ce" not in found.packages(firewall=True)
        assert [path for path in found.sources if "docker" in path] == []

    def test_one_that_does_not_answer_is_not_taken_for_empty(self) -> None:
        with pytest.raises(HostError, match=r"start it \(systemctl start docker.service\)"):
            _ = removal(docker={"answers": False}).agents

    def test_what_it_leaves_goes_once_it_is_gone(self) -> None:
        gone = DockerHolds()
        assert removal(docker=None).left_by_packages == []
        found = removal(before=Before(HAD, paths=frozenset({"/etc/docker"})), docker=vars(gone))
        assert "/var/www/html/index.nginx-debian.html" not in found.left_by_packages
        assert found.left_by_packages == [
            *("/var/lib/docker", "/var/lib/containerd", "/var/lib/docker-engine"),
            *("/etc/containerd", "/opt/containerd", "/etc/cni/net.d", "/etc/cni"),
        ]
        assert found.groups == ["docker"]

    def test_what_nginx_leaves_goes_once_it_is_gone(self) -> None:
        page = "/var/www/html/index.nginx-debian.html"
        gone = {name: one for name, one in INSTALLED.items() if name != "nginx"}
        assert page in removal(packages=gone).left_by_packages
        had = Before(HAD, paths=frozenset({page}))
        assert page not in removal(packages=gone, before=had).left_by_packages

    def test_images_that_were_there_before_stay(self) -> None:
        assert removal().images == [IMAGE]
        assert removal(before=Before(HAD, images=frozenset({IMAGE}))).images == []

    def test_every_package_that_a_deploy_installs_is_known(self) -> None:
        names = {*CE_PACKAGES, *(distro_packages(DEBIAN_13) or ())}
        assert names | {*(distro_packages(UBUNTU_24) or ())} == set(plan.DOCKER)


class TestTheRest:
    def test_nginx_stays_with_sites_of_others(self) -> None:
        assert "nginx" in removal().packages(firewall=False)
        found = removal(sites=("/etc/nginx/conf.d/wiki.conf",))
        assert "nginx" not in found.packages(firewall=False)
        said = "nginx stays: it has files of others: /etc/nginx/conf.d/wiki.conf"
        assert said in list(stays(found))

    def test_the_firewall_s_package_goes_after_the_firewall(self) -> None:
        assert "nftables" not in removal().packages(firewall=False)
        assert "nftables" in removal().packages(firewall=True)
        # Unless somebody loads rules of their own with it.
        own = removal(own_rules=True)
        assert not {"nftables", "libnft"} & set(own.packages(firewall=True))
        assert "nftables stays: nftables.service loads rules of others" in list(stays(own))

    def test_haproxy_goes_unless_somebody_uses_its_own_service(self) -> None:
        more = INSTALLED | packages("haproxy: liblua", "liblua*", "socat")
        ours = Manifest(before=Before(HAD), packages=OURS | {"haproxy", "socat"})

        def of(own: bool) -> Removal:
            found = replace(removal(packages=more).remains, manifest=ours, own_haproxy=own)
            return Removal(settings(), found)

        assert {"haproxy", "liblua", "socat"} <= set(of(False).packages(firewall=False))
        kept = of(True)
        assert not {"haproxy", "liblua"} & set(kept.packages(firewall=False))
        assert "socat" in kept.packages(firewall=False)
        why = "haproxy stays: haproxy.service is enabled or runs, for somebody else's use"
        assert [line for line in stays(kept) if "haproxy" in line] == [why]
        assert not [line for line in stays(of(False)) if "haproxy" in line]

    def test_keepalived_goes_unless_somebody_uses_its_own_service(self) -> None:
        more = INSTALLED | packages("keepalived")
        ours = Manifest(before=Before(HAD), packages=OURS | {"keepalived"})

        def of(own: bool) -> Removal:
            found = replace(removal(packages=more).remains, manifest=ours, own_keepalived=own)
            return Removal(settings(), found)

        assert "keepalived" in of(False).packages(firewall=False)
        assert "keepalived" not in of(True).packages(firewall=False)
        why = "keepalived stays: keepalived.service has a configuration, for somebody else's use"
        assert [line for line in stays(of(True)) if "keepalived" in line] == [why]
        assert not [line for line in stays(of(False)) if "keepalived" in line]

    def test_only_our_holds_are_released(self) -> None:
        assert removal().holds == ["nvidia-container-toolkit-base"]
        assert (
            removal(before=Before(HAD, held=frozenset({"nvidia-container-toolkit-base"}))).holds
            == []
        )

    def test_files_with_a_step_of_their_own_are_not_among_the_others(self) -> None:
        files = removal().files
        assert "/opt/vllm/.env" in files
        assert not {"/etc/docker/daemon.json", "/etc/nginx/conf.d/vllm-hosts.conf"} & set(files)

    def test_a_folder_of_models_that_was_there_before_stays(self) -> None:
        before = Before(paths=frozenset({"/var/lib/vllm", "/var/lib/vllm/huggingface"}))
        found = removal(models=True, manifest=Manifest(before, models=("/srv/models/coder",)))
        assert found.model_folders == ["/srv/models/coder"]
        assert "/var/lib/vllm/huggingface" not in found.folders
        assert (
            "models stay in /var/lib/vllm/huggingface, which was there before: others may be in it"
        ) in list(stays(found))
        alone = removal(models=True, manifest=Manifest(before))
        assert not [one for one in goes(alone) if one.startswith("models removed")]

    def test_models_stay_unless_they_are_named(self) -> None:
        kept, gone = removal(), removal(models=True)
        models = ["/var/lib/vllm/huggingface", "/srv/models/coder"]
        assert kept.folders == [
            *("/var/log/vllm-hosts", "/var/lib/logrotate/vllm-hosts-edge"),
            *("/run/vllm-hosts-watchdog", "/run/vllm-hosts-balancer"),
            "/var/lib/vllm-hosts-mirror",
        ]
        assert gone.folders == [*kept.folders, *models]
        assert "--data remove_models=true removes them" in " ".join(stays(kept))
        assert "models removed: /var/lib/vllm/huggingface, /srv/models/coder" in list(goes(gone))

    def test_folders_that_were_there_before_stay(self) -> None:
        assert "/opt/vllm" in removal().if_empty
        assert (
            "/opt/vllm" not in removal(before=Before(HAD, paths=frozenset({"/opt/vllm"}))).if_empty
        )

    def test_of_folders_that_are_not_only_ours_goes_what_deploys_noted(self) -> None:
        above = "/var/lib/vllm/agents"
        inside = [
            *("/opt/vllm/.env", "/opt/vllm/compose.yaml", "/opt/vllm/notes.txt"),
            *("/var/lib/vllm/agents", "/var/lib/vllm/huggingface", "/var/lib/vllm/theirs"),
            *(f"{above}/former", f"{above}/qwen", f"{above}/theirs"),
        ]
        lying = tuple(Inside(path, path.startswith(f"{above}/")) for path in inside)
        manifest = Manifest(
            Before(HAD),
            files=("/opt/vllm/.env", "/opt/vllm/compose.yaml"),
            taken=("/opt/vllm/.env", "/opt/vllm/compose.override.yaml"),
            agents=(f"{above}/former", f"{above}/qwen", "/srv/cache/agents/old"),
        )
        found = removal(manifest=manifest, inside=lying)
        assert found.agent_folders == sorted(manifest.agents)
        assert set(manifest.agents) < set(found.folders)
        assert "/opt/vllm/compose.override.yaml" not in found.files, "no deploy wrote it"
        assert found.others == ["/opt/vllm/notes.txt", f"{above}/theirs", "/var/lib/vllm/theirs"]
        assert f"what no deploy wrote stays: {', '.join(found.others)}" in list(stays(found))
        emptied = found.if_empty
        assert {above, "/srv/cache/agents"} < set(emptied)
        assert emptied.index(above) < emptied.index("/var/lib/vllm")

    def test_an_earlier_version_made_what_looks_like_an_agent_s(self) -> None:
        above = "/var/lib/vllm/agents"
        lying = (Inside(f"{above}/qwen", True), Inside(f"{above}/theirs"),
                 Inside("/opt/vllm/folder", True))  # fmt: skip
        manifest = Manifest(Before(HAD), files=("/opt/vllm/compose.yaml",))
        found = removal(manifest=manifest, inside=lying)
        assert found.agent_folders == [f"{above}/qwen"]
        assert found.others == ["/opt/vllm/folder", f"{above}/theirs"]
        # A gateway has no agents, whoever has a folder of that name there.
        gateway = removal(manifest=Manifest(Before(HAD)), inside=lying)
        assert gateway.agent_folders == []

    def test_nothing_goes_where_nothing_was_deployed(self) -> None:
        found = removal(manifest=Manifest(), inside=(Inside("/var/lib/vllm/agents/qwen", True),))
        assert found.nothing and found.agent_folders == []
        assert not {"/opt/vllm/.env", "/opt/vllm/compose.yaml"} & set(found.files)

    def test_sources_come_back_unless_somebody_has_changed_them(self) -> None:
        path = "/etc/apt/sources.list.d/docker.list"
        assert given_way(removal(), {path: ""}) == [path]
        assert given_way(removal(), {path: "another"}) == []
        # apt stops at two keys for one archive.
        assert given_way(removal(docker={"volumes": ("a",)}), {path: ""}) == []

    def test_without_a_record_only_what_is_certain_goes(self) -> None:
        found = removal(AGENT, before=None)
        assert (found.packages(firewall=True), found.holds, found.sources) == ([], [], [])
        assert found.agents == ["qwen"] and found.images == [IMAGE] and found.files
        # What packages that stay depend on stays too.
        more = ("/etc/apt/sources.list.d/docker.sources", "/etc/modprobe.d/vllm-hosts-nouveau.conf")
        manifest = replace(found.remains.manifest, files=more, sources=())
        kept = Removal(found.settings, replace(found.remains, manifest=manifest))
        assert not set(more) & set(kept.files)
        assert "packages, holds, apt's sources, daemon.json and nginx.conf stay as they are" in (
            " ".join(stays(found))
        )

    def test_the_firewall_waits_for_agents(self) -> None:
        assert left(removal(AGENT)) == ["agent qwen"]
        assert left(removal()) == []


class TestDaemonJson:
    SET: ClassVar[dict[str, Any]] = {
        "live-restore": True,
        "ip": "127.0.0.1",
        "default-network-opts": {
            "bridge": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
        },
        "log-opts": {"max-size": "50m", "max-file": "3"},
        **RUNTIME,
    }

    def text(self, value: dict[str, Any]) -> bytes:
        return json.dumps(value).encode()

    def restored(self, now: dict[str, Any], before: dict[str, Any] | None = None) -> Any:
        old = None if before is None else self.text(before)
        deployed = self.text({**(before or {}), **self.SET})
        found = daemon_json.restored(self.text(now), old, deployed)
        return None if found is None else json.loads(found)

    def test_every_key_of_ours_is_known(self) -> None:
        def leaves(value: object, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
            if isinstance(value, dict):
                for name, inner in value.items():
                    yield from leaves(inner, (*path, name))
            else:
                yield path

        wanted = {**daemon_settings(Docker(), {}), **RUNTIME}
        assert sorted(leaves(wanted)) == sorted(daemon_json.OURS)

    def test_a_file_that_was_not_there_goes(self) -> None:
        assert self.restored(self.SET) is None

    def test_the_same_values_are_the_same_bytes(self) -> None:
        before = b'{"debug":true,   "live-restore": false}'
        now = self.text({"debug": True, **self.SET})
        assert daemon_json.restored(now, before, now) == before

    def test_what_somebody_has_added_or_changed_since_stays(self) -> None:
        now = {**self.SET, "mtu": 1400, "ip": "192.0.2.1"}
        assert self.restored(now) == {"mtu": 1400, "ip": "192.0.2.1"}

    def test_old_values_come_back_beside_keys_of_others(self) -> None:
        before = {"log-opts": {"max-size": "9m", "tag": "x"}, "runtimes": {"runc2": {"path": "r"}}}
        now = {
            **self.SET,
            "log-opts": {"max-size": "50m", "tag": "x", "max-file": "3"},
            "runtimes": {**RUNTIME["runtimes"], "runc2": {"path": "r"}},
        }
        assert self.restored(now, before) == before

    def test_no_file_is_none(self) -> None:
        assert daemon_json.restored(None, b"{}", b"{}") is None


def test_nginx_conf_comes_back_where_only_our_numbers_differ() -> None:
    before = b"events {\n\tworker_connections 768;\n}\n"
    assert only_raised(before.replace(b"768", b"20480"), before)
    assert not only_raised(before.replace(b"768", b"20480") + b"http {}\n", before)


@pytest.mark.parametrize("line", ["packages nginx", "package", "gave-way /etc/apt/sources.list"])
def test_a_manifest_that_we_did_not_write(line: str) -> None:
    with pytest.raises(ValueError, match=line):
        manifest_of([line], [])


@pytest.mark.parametrize(
    "line",
    [
        *("agent /var", "agent /agents/a", "agent /var/lib/vllm/agents", "agent /a/b/agents/"),
        *("agent /a/b/agents/..", "agent /a/../agents/b", "agent /a//agents/b", "agent a/agents/b"),
        *("agent /a/agents/b c", "agent /a/agents/*", "agent /a/agents/$(b)", "file /etc"),
        *("model srv", "model /", "model /srv/a b", "model /srv/..", "model /srv/", "model /srv/?"),
        *("source /etc/passwd", "source /etc/apt/keyrings/../x", "source /etc/apt/keyrings"),
        *("gave-way - /etc/passwd", "gave-way x /etc/apt/sources.list", "gave-way - /etc/apt"),
        *("gave-way - /etc/apt/sources.list.d/..", "gave-way - /etc/apt/sources.list.d/a/b"),
        *("package -y", "hold a b", "package $(a)"),
    ],
)
def test_a_line_of_no_deploy_s_shape(line: str) -> None:
    with pytest.raises(ValueError) as raised:
        manifest_of([line], [])
    assert raised.value.args == (line,)


@pytest.mark.parametrize("path", ["a", "/a/../b", "/a//b", "/a/", "/a b", "/a;b", "/a/.", "? x /a"])
def test_a_path_that_no_deploy_records(path: str) -> None:
    assert recorded_files(["/opt/vllm/.env", "/etc/x.service.d/a@b"])[1:] == [
        "/etc/x.service.d/a@b"
    ]
    with pytest.raises(ValueError):
        recorded_files(["/ok", path])


class TestExpected:
    """Folders that the host's notes name and that go with all that is in them."""

    def of(self, **notes: Any) -> Removal:
        return removal(manifest=Manifest(Before(HAD), **notes), models=True)

    def test_models_that_stay_may_be_anywhere(self) -> None:
        replace(self.of(models=("/srv/coder",)), models=False).expected()

    def test_folders_of_deploys(self) -> None:
        self.of(
            agents=("/var/lib/vllm/agents/qwen", "/cache/agents/old"), models=("/srv/models/a",)
        ).expected()

    @pytest.mark.parametrize(
        "path",
        [
            "/srv",
            "/srv/models",
            "/var/lib/vllm",
            "/var/lib/vllm/agents",
            "/opt/vllm",
            "/usr/local/lib",
        ],
    )
    def test_a_model_s_folder_that_is_none(self, path: str) -> None:
        with pytest.raises(HostError) as raised:
            self.of(models=(path,)).expected()
        assert str(raised.value) == (
            f"/var/lib/vllm-hosts/manifest on the host names a folder of others: 'model {path}';"
            " restore that file, or correct that line, and run again"
        )

    def test_the_settings_may_have_a_model_near_the_top(self) -> None:
        agent = settings().agents[0].model_copy(update={"model": "/srv/coder"})
        found = self.of(models=("/srv/coder",))
        replace(found, settings=settings().model_copy(update={"agents": (agent,)})).expected()
        with pytest.raises(HostError, match="model /srv/coder"):
            found.expected()
