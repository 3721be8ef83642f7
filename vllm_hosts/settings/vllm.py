"""The section `vllm`: the image, its folders, and what all agents of a host share."""

from __future__ import annotations

from typing import Self

from packaging.version import InvalidVersion, Version
from pydantic import Field, field_validator, model_validator

from vllm_hosts.settings.types import (
    AbsolutePath,
    CellNetwork,
    ImageReference,
    Section,
    UserGroup,
)

#: Below this, a published vulnerability bypasses vLLM's key (CVE-2026-115911, fixed in 0.32.0).
VLLM_FLOOR = Version("0.32.0")
#: vLLM is at 0.33; a tag that begins with a larger number is not its version.
_NO_MAJOR = 10
_MOVING_TAGS = {"latest", "nightly", "main", "stable", "dev"}


class Vllm(Section):
    """What all agents of a host share."""

    image: ImageReference = Field(
        "vllm/vllm-openai:v0.33.0",
        description="Container image, pinned by an exact tag or by digest",
    )
    version: str | None = Field(
        None,
        description="vLLM's version in the image, if its tag does not contain it; checked against"
        " the"
        " image once it is on the host",
    )
    directory: AbsolutePath = Field(
        "/opt/vllm", description="Folder of compose.yaml and .env on the host"
    )
    cache_directory: AbsolutePath = Field(
        "/var/lib/vllm", description="Folder of downloaded models and compiled kernels on the host"
    )
    user: UserGroup = Field(
        "64101:64101", description="Numeric user and group that vLLM runs as, in the container"
    )
    fetch_user: UserGroup = Field(
        "64102:64101",
        description="Numeric user that owns fetched models, and the agents' group, which may only"
        " read them",
    )
    network: CellNetwork = Field(
        "198.18.0.0/16",
        validate_default=True,
        description="IPv4 range for agents' own networks, used on this host only; nothing else that"
        " the host reaches may be in it",
    )
    image_disk: int = Field(
        40, ge=1, description="GiB that must be free before the image is pulled"
    )
    model_disk: int = Field(
        20, ge=1, description="GiB that must be free for each hub model that is not on the host yet"
    )
    health_timeout: int = Field(
        1800, ge=10, description="Seconds within which a started agent must become healthy"
    )
    change_together: bool = Field(
        False,
        description="`False`: hosts that serve the same model change their agents one after the"
        " other, and a failure stops those after it; `True`: all at once",
    )
    roll_back: bool = Field(
        True,
        description="Whether agents that do not become healthy are put back to the last definition"
        " that did; the deploy fails on that host either way",
    )
    drain_timeout: int = Field(
        20,
        ge=0,
        le=3600,
        description="Seconds that in-flight requests get to finish when an agent stops",
    )
    watchdog: bool = Field(
        True,
        description="Whether the host restarts an agent whose engine is dead or frozen behind an"
        " API that still answers",
    )
    watchdog_interval: int = Field(
        30, ge=5, le=600, description="Seconds between two looks of the watchdog at an agent"
    )
    watchdog_looks: int = Field(
        10,
        ge=3,
        le=100,
        description="Looks in a row without a sign of life, after which the watchdog restarts an"
        " agent; vLLM itself gives one step of an engine 300 seconds",
    )
    watchdog_restarts: int = Field(
        3,
        ge=1,
        le=10,
        description="Restarts of one agent within an hour, after which the watchdog leaves it as it"
        " is",
    )

    @field_validator("image")
    @classmethod
    def _pinned(cls, image: str) -> str:
        name, _, digest = image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if not digest and (not tag or tag in _MOVING_TAGS):
            raise ValueError(
                f"{image!r} can change without notice; name an exact tag such as ':v0.33.0' or a"
                " digest"
            )
        return image

    @model_validator(mode="after")
    def _users_differ(self) -> Self:
        user, _, group = self.user.partition(":")
        owner, _, readers = self.fetch_user.partition(":")
        if "0" in (user, owner) or user == owner or group != readers:
            raise ValueError(
                f"vllm.fetch_user {self.fetch_user} must be another user than vllm.user"
                f" {self.user}, in the same group, and neither may be root, so that agents can read"
                " models and not change them"
            )
        return self

    @model_validator(mode="after")
    def _above_floor(self) -> Self:
        if self.vllm_version is None:
            raise ValueError(
                f"the version of vLLM cannot be read from {self.image!r};"
                " set vllm.version, such as '0.33.0'"
            )
        if self.vllm_version < VLLM_FLOOR:
            raise ValueError(
                f"vLLM {self.vllm_version} has known vulnerabilities that bypass its key; use"
                f" {VLLM_FLOOR} or newer"
            )
        return self

    @property
    def vllm_version(self) -> Version | None:
        """The version according to the settings; the image is also checked on the host."""
        claimed = self.version
        if claimed is None:
            claimed = self.image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        try:
            version = Version(claimed.split("-")[0])
        except InvalidVersion:
            return None
        # 25.12, 2025.11.01 and 20251101 are dates, and 7 is a build number.
        plausible = version.major < _NO_MAJOR and len(version.release) > 1
        return version if plausible else None
