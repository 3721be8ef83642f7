"""The settings of one host, by role. Descriptions here become ``docs/settings.md``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vllm_hosts.settings.types import (
    AbsolutePath,
    CapacityCheck,
    Cidr,
    DebianVersion,
    DockerSource,
    DriverMode,
    DriverSource,
    EnvName,
    Fingerprint,
    HttpsUrl,
    InterfaceName,
    Port,
    Section,
    Size,
    TlsMode,
    UserName,
)


class Docker(Section):
    """Docker Engine and Compose."""

    source: DockerSource = Field(
        "docker-ce",
        description="`docker-ce`: Docker's own apt archive; `distro`: the distribution's packages",
    )
    archive_url: HttpsUrl = Field(
        "https://download.docker.com/linux",
        description="Docker's archive or a mirror of it; `/debian` or `/ubuntu` is added",
    )
    key_url: HttpsUrl | None = Field(
        None, description="The archive's signing key; None: `gpg` beside the archive"
    )
    key_fingerprint: Fingerprint = Field(
        "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
        description="The only key that may sign the archive",
    )
    log_max_size: Size = Field("50m", description="A container's log is rotated at this size")
    log_max_file: int = Field(3, ge=1, le=100, description="Rotated log files kept per container")
    live_restore: bool = Field(
        True,
        description="Containers keep running while the Docker daemon restarts; must be False on a"
        " node of a Docker swarm, where dockerd does not start with it",
    )
    container_folders: tuple[AbsolutePath, ...] = Field(
        (),
        description="Folders that containers other than agents may mount, besides the usual ones"
        " below `/srv`, `/data`, `/mnt`, `/media`, `/opt`, `/var/www` and in users' homes; the"
        " hosts suite checks their mounts",
        strict=False,
    )
    group_members: tuple[UserName, ...] = Field(
        (),
        description="Users who may be in the group `docker`, which makes them root; the hosts suite"
        " checks who is, and nobody is added",
        strict=False,
    )


class Nvidia(Section):
    """GPU driver and NVIDIA Container Toolkit. Used on hosts where an agent asks for a GPU."""

    driver: DriverMode = Field(
        "present",
        description="`present`: a host without a working driver is refused; `install`: it gets one",
    )
    driver_source: DriverSource = Field(
        "distro",
        description="`distro`: the distribution's packages; `nvidia`: NVIDIA's CUDA archive",
    )
    driver_series: int | None = Field(
        None,
        ge=470,
        le=999,
        description="Series to install, such as `580`; a driver of another series is replaced;"
        " None: a driver that works stays, otherwise 580, or the one that Debian has",
    )
    allow_reboot: bool = Field(
        False,
        description="Reboot hosts where the driver needs it, one host at a time",
    )
    reboot_timeout: int = Field(
        900, ge=30, description="Seconds within which a rebooted host must be back"
    )
    driver_archive_url: HttpsUrl = Field(
        "https://developer.download.nvidia.com/compute/cuda/repos",
        description="NVIDIA's CUDA archive or a mirror of it; `/debian13/x86_64` and the like is"
        " added",
    )
    driver_key_url: HttpsUrl | None = Field(
        None, description="That archive's signing key; None: the file that NVIDIA has beside it"
    )
    driver_key_fingerprint: Fingerprint | None = Field(
        None, description="The only key that may sign that archive; None: NVIDIA's own"
    )
    toolkit_version: DebianVersion = Field(
        "1.20.1-1", description="Version of all four toolkit packages, which are then held"
    )
    archive_url: HttpsUrl = Field(
        "https://nvidia.github.io/libnvidia-container/stable/deb",
        description="NVIDIA's archive or a mirror of it; the architecture is added",
    )
    key_url: HttpsUrl = Field(
        "https://nvidia.github.io/libnvidia-container/gpgkey",
        description="The archive's signing key",
    )
    key_fingerprint: Fingerprint = Field(
        "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
        description="The only key that may sign the archive",
    )


class Firewall(Section):
    """Our own nftables table. Everything that is not named here or in `edge` is dropped."""

    ssh_from: tuple[Cidr, ...] = Field(
        (), description="Networks that may use SSH; empty: everybody", strict=False
    )
    extra_tcp_ports: tuple[Port, ...] = Field(
        (),
        description="Further TCP ports open to everybody, such as a metrics exporter's",
        strict=False,
    )
    extra_udp_ports: tuple[Port, ...] = Field(
        (), description="Further UDP ports open to everybody, such as WireGuard's", strict=False
    )
    forward_from: tuple[InterfaceName, ...] = Field(
        (),
        description="Interfaces from which this host forwards packets for others, such as `wg0` of"
        " a VPN that it routes. Bridges of containers and virtual machines need no entry",
        strict=False,
    )


class SshHardening(Section):
    """Changes to SSH, if any."""

    enabled: bool = Field(
        False,
        description="Disable password logins, once a login with a key has been seen to work",
    )


class Secrets(Section):
    """Sources of secrets that the toolkit does not generate itself."""

    hf_token_env: EnvName | None = Field(
        None,
        description="Environment variable, on the controller, that holds the Hugging Face token",
    )
    hf_token_command: str | None = Field(
        None,
        min_length=1,
        description="Shell command, on the controller, that prints the Hugging Face token, such as"
        " `pass show hf` or `op read op://ai/hf/token`",
    )
    internal_key_env: EnvName | None = Field(
        None,
        description="Environment variable, on the controller, with the key between edge and vLLM;"
        " None: generated at first use and kept",
    )
    internal_key_command: str | None = Field(
        None,
        min_length=1,
        description="Shell command, on the controller, that prints the key between edge and vLLM",
    )
    sudo_password_env: EnvName | None = Field(
        None,
        description="Environment variable, on the controller, with the password that sudo needs on"
        " the host; None: you are prompted, if sudo needs one",
    )
    sudo_password_command: str | None = Field(
        None,
        min_length=1,
        description="Shell command, on the controller, that prints the password that sudo needs on"
        " the host, such as `pass show gpu1`; run only if sudo asks",
    )

    @model_validator(mode="after")
    def _one_source_each(self) -> Self:
        for name in ("hf_token", "internal_key", "sudo_password"):
            if getattr(self, f"{name}_env") and getattr(self, f"{name}_command"):
                raise ValueError(
                    f"secrets.{name}_env and secrets.{name}_command exclude each other; remove one"
                )
        return self

    @property
    def has_hf_token(self) -> bool:
        """Whether agents get a Hugging Face token."""
        return bool(self.hf_token_env or self.hf_token_command)


class Hub(Section):
    """The Hugging Face hub, or a mirror of it. Used only while models are fetched."""

    endpoint: HttpsUrl | None = Field(
        None, description="A mirror of the hub, as in HF_ENDPOINT; None: https://huggingface.co"
    )
    connections: int = Field(
        4, ge=1, le=32, description="Files of a model that are fetched in parallel"
    )


class Capacity(Section):
    """Whether vLLM takes the agents and they fit their GPUs. See docs/capacity.md."""

    preflight: CapacityCheck = Field(
        "refuse",
        description="What a deploy does if vLLM itself refuses an agent, before its container is"
        " touched: `refuse` the host, `warn`, or `off`, which asks nobody and makes no plan",
    )
    gpu_memory: float | None = Field(
        None,
        gt=0,
        le=10000,
        description="Memory of each GPU in GiB, for hosts that cannot be queried; None: only what"
        " the host reports",
        strict=False,
    )


class Tls(Section):
    """Certificates of the edge."""

    mode: TlsMode = Field(
        "local-ca", description="`local-ca`: our own CA signs; `files`: you provide them"
    )
    certificate: str | None = Field(
        None,
        description="With `files`: certificate chain in PEM, on the controller; you renew it there,"
        " and the next deploy brings it to hosts",
    )
    key: str | None = Field(
        None, description="With `files`: the certificate's key in PEM, on the controller"
    )
    ca_file: str | None = Field(
        None,
        description="With `files`: CA certificate that clients need, in PEM, on the controller;"
        " None: a CA that every system trusts",
    )
    valid_days: int = Field(
        365, ge=2, le=366, description="With `local-ca`: lifetime of a host's certificate, in days"
    )
    renew_before_days: int = Field(
        120,
        ge=1,
        description="With `local-ca`: a deploy renews it when fewer days than this are left",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, value in (("tls.certificate", self.certificate), ("tls.key", self.key)):
            if self.mode == "files" and not value:
                raise ValueError(
                    f"tls.mode is 'files' but {name} names no file; set it, or tls.mode ="
                    " 'local-ca'"
                )
        named = {"certificate": self.certificate, "key": self.key, "ca_file": self.ca_file}
        for name, value in named.items():
            if self.mode == "local-ca" and value:
                raise ValueError(
                    f"tls.{name} is only for tls.mode = 'files', and here it is 'local-ca'; remove"
                    f" tls.{name}, or set tls.mode"
                )
        if self.renew_before_days >= self.valid_days:
            raise ValueError("tls.renew_before_days must be smaller than tls.valid_days")
        return self
