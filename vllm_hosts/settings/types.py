"""Value types that several settings share. Their errors say what would be right."""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from vllm_hosts.text import quoted

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Section(BaseModel):
    """Base of every group of settings: unknown names are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AcrossError(ValueError):
    """A mistake that shows only where sections are compared.

    :param section: the one whose file is named, and where it is to be corrected.
    """

    def __init__(self, sentence: str, *, section: str) -> None:
        super().__init__(sentence)
        self.section = section


def _matches(pattern: str, hint: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{quoted(value)} is not {hint}")
        return value

    return AfterValidator(check)


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        if isinstance(value, str):
            return ip_network(value)
    except ValueError:
        pass
    raise ValueError(
        f"{quoted(value)} is not a network; write it like '10.0.0.0/8', '192.0.2.7/32' or"
        " '2001:db8::/32'"
    )


#: An address range. Host bits must be zero, so that a typo does not silently open a wider range.
Cidr = Annotated[Network, BeforeValidator(_network)]


def _address(value: object) -> Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        if isinstance(value, str):
            return ip_address(value)
    except ValueError:
        pass
    raise ValueError(
        f"{quoted(value)} is not an address; write it like '192.0.2.9' or '2001:db8::9'"
    )


#: One machine's address; no name, and without a network's length.
IpAddress = Annotated[Address, BeforeValidator(_address)]


def _cells(value: object) -> IPv4Network:
    network = _network(value)
    if isinstance(network, IPv4Network) and 12 <= network.prefixlen <= 26:
        return network
    raise ValueError(
        f"{quoted(value)} is not an IPv4 network of /12 to /26, such as '198.18.0.0/16'"
    )


#: Where agents' own networks of eight addresses are taken from.
CellNetwork = Annotated[IPv4Network, BeforeValidator(_cells)]

Port = Annotated[int, Field(ge=1, le=65535)]
#: Those characters of URLs that are not special to a shell, nginx or apt, since URLs from settings
#: end up in their files.
HttpsUrl = Annotated[
    str,
    _matches(
        r"https?://[A-Za-z0-9._~:/@%+,=\[\]-]*[A-Za-z0-9_~%+=\]-]",
        "a URL such as 'https://example.org/archive', made of letters, digits and"
        " . _ ~ : / @ % + , = [ ] -",
    ),
]
#: The 40 hexadecimal digits of an OpenPGP key, without spaces.
Fingerprint = Annotated[
    str, _matches(r"[0-9A-F]{40}", "an OpenPGP fingerprint of 40 upper-case hexadecimal digits")
]
AbsolutePath = Annotated[
    str,
    _matches(
        r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._@+-]+)+",
        "an absolute path made of letters, digits and . _ @ + -, without the parts . and ..",
    ),
]
#: Sizes as nginx and Docker write them: a number and one of k, m, g.
Size = Annotated[str, _matches(r"[1-9][0-9]*[kmg]", "a size such as '32m' or '1g'")]
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def in_bytes(size: str) -> int:
    """A ``Size`` in bytes."""
    return int(size[:-1]) * _UNITS[size[-1]]


#: vLLM 0.32, utils/argparse_utils.py: lower-case letters are powers of 1000, capitals of 1024.
_TOKENS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _tokens(value: object) -> object:
    """A number of tokens, also in the notation of vLLM's command line."""
    if value in (None, "auto") or (type(value) is int and value >= 1):
        return value
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"([0-9]{1,12})(\.[0-9]{1,6})?([kmgKMG]?)", text)
    if match and not (match[2] and match[3] not in ("k", "m", "g")):
        tokens = int(Decimal(match[1] + (match[2] or "")) * _TOKENS[match[3]])
        if tokens:
            return tokens
    raise ValueError(
        f"{quoted(value)} is not a number of tokens; write 16384, or in vLLM's notation '16k'"
        " (16000) or '16K' (16384), or 'auto'"
    )


#: A context length; ``auto``: whatever fits.
Tokens = Annotated[int | Literal["auto"], BeforeValidator(_tokens)]


def _readable_address(value: str) -> str:
    """What can only be meant for an address is one: no 'cafe:443', and no '192.0.2.300'."""
    if ":" in value or re.fullmatch(r"[0-9.]+", value):
        try:
            ip_address(value)
        except ValueError:
            raise ValueError(f"{quoted(value)} is not {_NAME_OR_ADDRESS}") from None
    return value


_NAME_OR_ADDRESS = "a DNS name or an IP address"
#: A DNS name or an IP address, as clients write it in a URL's host part.
HostName = Annotated[
    str,
    _matches(
        r"(?i)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|[0-9a-f:]*:[0-9a-f:.]+",
        _NAME_OR_ADDRESS,
    ),
    AfterValidator(_readable_address),
]
InterfaceName = Annotated[
    str, _matches(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", "a network interface such as 'wg0'")
]
#: A domain as it is in a parsed URL: lower case, at least two parts, not an address.
DnsName = Annotated[
    str,
    _matches(
        r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "a DNS name in lower case such as 'images.example.com'",
    ),
]
#: Registry, path, tag and digest, as in the distribution project's reference grammar.
ImageReference = Annotated[
    str,
    _matches(
        r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?"
        r"(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
        r"(@sha256:[0-9a-f]{64})?",
        "an image reference such as 'vllm/vllm-openai:v0.33.0'",
    ),
]
EnvName = Annotated[str, _matches(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
#: Without further zeros: 00 would be root too, under another name than the one that is refused.
UserGroup = Annotated[
    str,
    _matches(
        r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})",
        "a numeric user and group such as '64101:64101'",
    ),
]
UserName = Annotated[str, _matches(r"[a-z_][a-z0-9_-]*", "the name of a user such as 'alice'")]
DebianVersion = Annotated[
    str, _matches(r"[0-9][A-Za-z0-9.+~:-]*", "a package version such as '1.20.1-1'")
]

#: A web page's origin as browsers send it: lower case, without a path or a final slash.
Origin = Annotated[
    str,
    _matches(
        r"https?://([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])"
        r"(:[1-9][0-9]{0,4})?",
        "an origin such as 'https://app.example.com', in lower case and without a path",
    ),
]

CacheIsolation = Literal["client", "off"]
CapacityCheck = Literal["refuse", "warn", "off"]
DockerSource = Literal["docker-ce", "distro"]
DriverMode = Literal["present", "install"]
DriverSource = Literal["distro", "nvidia"]
TlsMode = Literal["local-ca", "files"]
