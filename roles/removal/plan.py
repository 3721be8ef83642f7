"""What goes from a host and what stays, from what was there before and what is there now.

Touches no host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vllm_hosts.errors import HostError
from vllm_hosts.host import daemon_json, paths
from vllm_hosts.host.files import NEW
from vllm_hosts.host.manifest import DOCKER_FOLDERS, TOOLKIT_FOLDER, WELCOME_PAGE, damaged
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF
from vllm_hosts.host.packages import removable
from vllm_hosts.host.remains import DockerHolds, Remains
from vllm_hosts.settings import HostSettings

#: Packages that stay together, where Docker stays: from Docker's archive, or the distribution's.
DOCKER = frozenset(
    (
        *("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin"),
        *("docker-compose-plugin", "docker.io", "docker-cli", "docker-compose"),
        "docker-compose-v2",
    )
)
_DAEMONS = frozenset({"docker-ce", "docker.io"})
#: Goes after everything that its rules protect.
FIREWALL = frozenset({"nftables"})
#: Written by every version, whatever the host's record says of them.
_ALWAYS = (
    "/etc/systemd/system/vllm-hosts-keys.timer",
    "/etc/systemd/system/vllm-hosts-keys.service",
    "/etc/systemd/system/vllm-hosts-edge-logs.timer",
    "/etc/systemd/system/vllm-hosts-edge-logs.service",
    "/etc/systemd/system/vllm-hosts-watchdog.timer",
    "/etc/systemd/system/vllm-hosts-watchdog.service",
    "/etc/systemd/system/nginx.service.d/vllm-hosts.conf",
    # There where a run was cut off as it confirmed a change.
    paths.UNCONFIRMED_UNIT,
)
#: Timers of ours.
TIMERS = tuple(path.rpartition("/")[2] for path in _ALWAYS if path.endswith(".timer"))
#: When logrotate has rotated our logs.
_ROTATED = "/var/lib/logrotate/vllm-hosts-edge"
#: Folders that no deploy makes, although it may have something in them.
_SYSTEM = (paths.STATE, "/etc/apt", "/usr/local/lib", "/var/lib/dpkg", "/var/log", "/home", "/root")
_DRIVERS = frozenset({paths.NOUVEAU, paths.PERSISTENCE_UNIT})
#: Not removed with the other files: only partly ours, or in a step of their own.
_APART = frozenset(
    (
        *(daemon_json.PATH, MAIN_CONF, LIMITS_CONF, paths.EDGE_CONF, paths.SSHD_CONF),
        *(paths.FIREWALL_RULES, f"/etc/systemd/system/{paths.FIREWALL_UNIT}", paths.STORE_MARK),
    )
)


@dataclass(frozen=True)
class Removal:
    """Decisions about one host.

    :param models: whether the models go too.
    """

    settings: HostSettings
    remains: Remains
    models: bool = False

    @cached_property
    def known(self) -> bool:
        """Whether it is known what the host had before us."""
        return self.remains.manifest.before is not None

    @property
    def nothing(self) -> bool:
        """Whether no deploy has left anything."""
        return not (self.known or self.remains.manifest.files or self.agents)

    @property
    def elsewhere(self) -> str:
        """Where deploys have kept the agents, if that is not where the settings say."""
        files = [
            path
            for path in self.remains.manifest.files
            if path.endswith("/compose.yaml") and not path.startswith(f"{paths.STATE}/")
        ]
        if not files or f"{self.settings.vllm.directory}/compose.yaml" in files:
            return ""
        return files[-1].rpartition("/")[0]

    @property
    def docker(self) -> DockerHolds:
        """What is in Docker.

        :raises HostError: Docker does not say.
        """
        found = self.remains.docker
        if found.installed and not found.answers:
            raise HostError(
                "Docker does not answer, so what runs in it cannot be seen; start it (systemctl"
                " start docker.service), and run again"
            )
        return found

    @property
    def agents(self) -> list[str]:
        """Names of our containers."""
        return sorted(one.name for one in self.docker.containers if one.ours)

    @cached_property
    def docker_stays(self) -> str:
        """Why Docker stays; empty: it goes."""
        before, found = self.remains.manifest.before, self.docker
        if before is None:
            return "it is not known whether it was there before"
        if before.packages & DOCKER or "/usr/bin/dockerd" in before.paths:
            return "it was there before"
        others = [one.name for one in found.containers if not one.ours]
        for what, names in (
            ("containers", others),
            ("volumes", found.volumes),
            ("networks", found.others_networks),
            ("images", [one[7:19] for one in sorted(found.images - found.ours)]),
        ):
            if names:
                return f"it has other {what}: {few(names)}"
        return ""

    @cached_property
    def nginx_stays(self) -> str:
        """Why nginx stays; empty: it goes."""
        before, sites = self.remains.manifest.before, self.remains.sites
        if before is None:
            return "it is not known whether it was there before"
        if "nginx" in before.packages:
            return "it was there before"
        return f"it has files of others: {few(sites)}" if sites else ""

    @property
    def _docker_is_ours(self) -> bool:
        """Whether Docker stays although deploys have brought it."""
        before = self.remains.manifest.before
        had = before.packages & _DAEMONS if before else frozenset[str]()
        return bool(self.docker_stays) and not had & set(self.remains.packages)

    def packages(self, *, firewall: bool) -> list[str]:
        """Those to remove now.

        :param firewall: whether the firewall is open, so that what loads it can go too.
        """
        manifest = self.remains.manifest
        if manifest.before is None:
            return []
        # Somebody may have come to load rules of their own with it.
        stays = set() if firewall and not self.remains.own_rules else set(FIREWALL)
        stays |= DOCKER if self._docker_is_ours else set()
        stays |= {"nginx"} if self.nginx_stays else set()
        stays |= {"haproxy"} if self.remains.own_haproxy else set()
        stays |= {"keepalived"} if self.remains.own_keepalived else set()
        return removable(self.remains.packages, manifest.packages, manifest.before.packages, stays)

    @property
    def brought(self) -> list[str]:
        """Packages that deploys installed and that are there."""
        manifest = self.remains.manifest
        before = manifest.before.packages if manifest.before else frozenset[str]()
        return sorted((manifest.packages & set(self.remains.packages)) - before)

    def kept_packages(self) -> list[str]:
        """Those of them that stay."""
        return sorted(set(self.brought) - set(self.packages(firewall=True)))

    @property
    def holds(self) -> list[str]:
        """Packages to release from the version that deploys hold them at."""
        manifest = self.remains.manifest
        if manifest.before is None:
            return []
        return sorted((manifest.held & self.remains.held) - manifest.before.held)

    @property
    def images(self) -> list[str]:
        """Identifiers of images that only deploys have brought."""
        before = self.remains.manifest.before
        had = before.images if before else frozenset[str]()
        return sorted((self.docker.ours & self.docker.images) - had)

    @property
    def files(self) -> list[str]:
        """Files that deploys wrote, but for those with a step of their own."""
        directory = self.settings.vllm.directory
        beside = (f"{directory}/compose.yaml", f"{directory}/.env")
        # The new versions of a deploy whose host lost its power.
        ours = [*_ALWAYS, *(f"{path}{NEW}" for path in beside)]
        if not (self.known or self.nothing):
            # Deploys of a version that may have recorded nothing.
            ours += beside
        apart = _APART | {*self.remains.manifest.sources}
        found = {*ours, *self.remains.manifest.files} - apart
        if not self.known:
            # They are for packages, which stay.
            found = {path for path in found if path not in _DRIVERS and "/apt/" not in path}
        return sorted(found)

    @property
    def sources(self) -> list[str]:
        """apt's source files and keys of ours that go."""
        manifest = self.remains.manifest
        if manifest.before is None:
            # The packages from there stay, and would get no security updates any more.
            return []
        ours = list(manifest.sources)
        if self._docker_is_ours:
            ours = [path for path in ours if not path.rpartition("/")[2].startswith("docker.")]
        return ours

    @property
    def folders(self) -> list[str]:
        """Folders that go with all that is in them."""
        found = [*self.agent_folders, paths.EDGE_LOGS, _ROTATED]
        found += [paths.WATCHDOG_SEEN, paths.BALANCER_RUN, paths.MIRROR_STATE]
        return [*found, *(self.model_folders if self.models else [])]

    @property
    def short(self) -> frozenset[str]:
        """Folders of one or two parts that may go whole: no note on the host names them."""
        fixed = (*DOCKER_FOLDERS, TOOLKIT_FOLDER, paths.WATCHDOG_SEEN, paths.BALANCER_RUN)
        return frozenset({*fixed, paths.models_folder(self.settings), *self._models_of_settings})

    @property
    def _models_of_settings(self) -> set[str]:
        return {agent.model for agent in self.settings.agents if agent.is_folder}

    def expected(self) -> None:
        """See that the host's notes name no folder that cannot be a deploy's alone.

        :raises HostError: one is above what others have, or what the settings have elsewhere.
        """
        vllm, notes = self.settings.vllm, self.remains.manifest
        kept = (vllm.directory, vllm.cache_directory, paths.agents_folder(self.settings), *_SYSTEM)
        named = [("agent", one) for one in notes.agents]
        named += [("model", one) for one in notes.models if self.models]
        for kind, path in named:
            above = any(f"{one}/".startswith(f"{path}/") for one in kept)
            far = path.count("/") >= 3 or path in self.short
            if above or not far:
                raise damaged(paths.MANIFEST, f"{kind} {path}", "names a folder of others")

    @property
    def agent_folders(self) -> list[str]:
        """Folders that deploys made for agents, of which each is the agent's alone."""
        manifest, above = self.remains.manifest, paths.agents_folder(self.settings)
        if manifest.taken or manifest.agents:
            return sorted(manifest.agents)
        compose = f"{self.settings.vllm.directory}/compose.yaml"
        if compose not in self.files:
            return []
        # Deploys of a version that did not note them, and where only root makes folders.
        inside = (one for one in self.remains.inside if one.like_an_agent_s)
        return sorted(one.path for one in inside if one.path.rpartition("/")[0] == above)

    @property
    def others(self) -> list[str]:
        """What lies in folders of ours and is not known to be ours."""
        ours = [*self.files, *self.folders, *self.model_folders]
        ours += [self.settings.vllm.directory, paths.agents_folder(self.settings)]
        ours += [paths.models_folder(self.settings)]
        return sorted(
            one.path
            for one in self.remains.inside
            if not any(path == one.path or path.startswith(f"{one.path}/") for path in ours)
        )

    @property
    def model_folders(self) -> list[str]:
        """Folders with models that deploys fetched or copied, and with none of others."""
        fetched = [] if self.kept_models else [paths.models_folder(self.settings)]
        return [*fetched, *self.remains.manifest.models]

    @property
    def kept_models(self) -> str:
        """The folder of fetched models where it was there before the first deploy; else empty."""
        before, folder = self.remains.manifest.before, paths.models_folder(self.settings)
        return folder if before is not None and folder in before.paths else ""

    @property
    def if_empty(self) -> list[str]:
        """Folders that go if nothing is left in them, inner ones first."""
        before = self.remains.manifest.before
        vllm = self.settings.vllm
        found = [
            "/usr/local/lib/vllm-hosts",
            "/etc/systemd/system/nginx.service.d",
            *("/etc/apt/keyrings", "/var/www/html", "/var/www"),
            vllm.directory,
            *sorted(
                {
                    paths.agents_folder(self.settings),
                    *(path.rpartition("/")[0] for path in self.agent_folders),
                }
            ),
            vllm.cache_directory,
            *self._certificates_of_docker,
        ]
        return [path for path in found if before is None or path not in before.paths]

    @property
    def _certificates_of_docker(self) -> list[str]:
        """Folders in which Docker looks for a mirror's certificates."""
        files = [
            path for path in self.remains.manifest.files if path.startswith(paths.DOCKER_CERTS)
        ]
        folders = sorted({path.rpartition("/")[0] for path in files})
        return [*folders, paths.DOCKER_CERTS] if folders else []

    @property
    def left_by_packages(self) -> list[str]:
        """What packages leave behind when they go."""
        before = self.remains.manifest.before
        if before is None:
            return []
        docker = not (self.docker_stays or self.remains.docker.installed)
        nginx = not (self.nginx_stays or "nginx" in self.remains.packages)
        toolkit = "nvidia-container-toolkit-base" not in self.remains.packages
        found = [*(DOCKER_FOLDERS if docker else ()), *([WELCOME_PAGE] if nginx else [])]
        found += [TOOLKIT_FOLDER] if toolkit else []
        return [path for path in found if path not in before.paths]

    @property
    def groups(self) -> list[str]:
        """Groups that Docker leaves behind."""
        before = self.remains.manifest.before
        if before is None or self.docker_stays or self.remains.docker.installed:
            return []
        return [] if "docker" in before.groups else ["docker"]


def left(removal: Removal) -> list[str]:
    """What the firewall still protects."""
    return [f"agent {name}" for name in removal.agents]


def given_way(removal: Removal, digests: Mapping[str, str]) -> list[str]:
    """apt's source files of others that come back as they were: those that nobody has changed since
    they gave way to ours. None while one of ours stays: apt stops at two keys for one archive.

    :param digests: by path, what is there now; empty: nothing.
    """
    manifest = removal.remains.manifest
    if set(manifest.sources) - set(removal.sources):
        return []
    return sorted(path for path, digest in manifest.gave_way.items() if digests[path] == digest)


def few(names: Sequence[str], most: int = 3) -> str:
    """Some of them, for a sentence."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
