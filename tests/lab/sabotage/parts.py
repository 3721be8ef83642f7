"""What rows of sabotage are made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sabotage:
    """One way to break promises on gpu1, or on another ``host``.

    ``broken`` are exactly the promises that the suite must then find broken; where ``blind``, it
    may find others that cannot be checked. A deploy heals it. Where it refuses to run instead, it
    says ``refused``; there, and where nobody but the owner can heal it, ``undo`` does.
    """

    name: str
    do: str
    broken: frozenset[str]
    undo: str = ""
    refused: str = ""
    blind: bool = False
    #: Promises that this row needs and others leave out, since they take long.
    also: tuple[str, ...] = field(default=())
    host: str = "gpu1"


def row(
    name: str,
    broken: str,
    do: str,
    *,
    undo: str = "",
    refused: str = "",
    blind: bool = False,
    also: tuple[str, ...] = (),
) -> Sabotage:
    return Sabotage(name, do, frozenset(broken.split()), undo, refused, blind, also)


CONF = "/etc/nginx/conf.d/vllm-hosts.conf"
MARK = "/etc/vllm-hosts/store"
MAPS = "/etc/nginx/vllm-hosts"
LUA = "/etc/nginx/vllm-hosts-lua"
LIMITS = "/etc/nginx/modules-enabled/00-vllm-hosts-limits.conf"
#: systemd is content with the signal; new workers are what has read the files.
RELOAD = (
    "{ workers() { pgrep -P $(cat /run/nginx.pid); }; old=$(workers); nginx -t -q &&"
    " systemctl reload nginx && for i in $(seq 100); do"
    ' workers | grep -qvxF "$old" && break; sleep 0.1; done && sleep 1; }'
)
IMAGE = "$(docker inspect tiny --format '{{.Config.Image}}')"
#: Agents' keys in .env, whatever their variables are called; the last one.
KEYS = "sed -n 's/^VLLM_API_KEY[A-Z0-9_]*=//p' /opt/vllm/.env | tail -n 1"
KEY = f"$({KEYS})"
#: The Docker network of agent spare.
NETWORK = (
    "$(docker inspect spare --format"
    " '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}')"
)


def listen(where: str, how: str = "") -> str:
    """A listener of a stranger, with what every lab host has."""
    return f"systemd-run -q --unit lab-stranger systemd-socket-activate {how} -l {where} /bin/cat"


def edited(edit: str, path: str = CONF) -> str:
    return f"sed -i '{edit}' {path} && {RELOAD}"


def recreated(edit: str) -> str:
    """Agent spare recreated from a changed compose file; it is the last one in it."""
    return (
        f"cd /opt/vllm && sed -i '/^  spare:/,$ {{ {edit} }}' compose.yaml &&"
        " docker compose --progress quiet up -d --no-deps spare"
    )


def container(options: str) -> str:
    return (
        f"docker run -d -q --name lab-stranger {options} --entrypoint sleep {IMAGE} 600 && sleep 1"
    )


def powerful(name: str, options: str, *, before: str = "", undo: str = "") -> Sabotage:
    """A container of a stranger that has more of the host than any container may."""
    do = f"{before} && {container(options)}" if before else container(options)
    return row(
        f"container-{name}",
        "DOCKER-09",
        do,
        undo=f"{GONE}; {undo}" if undo else GONE,
    )


CACHE = "/var/lib/vllm"
HEALTHY = (
    " && for a in tiny spare; do i=0; until docker inspect $a --format '{{.State.Health.Status}}'"
    " | grep -q ^healthy; do sleep 2; i=$((i+1)); [ $i -lt 120 ] || exit 1; done; done"
)
GONE = "docker rm -f lab-stranger"
#: Docker as it would speak of the network `lab` if that were no bridge.
FAKE_MACVLAN = """cat >/usr/local/sbin/docker <<'end'
#!/bin/sh
case "$1 $2" in
    'network inspect') /usr/bin/docker "$@" | sed '/"Name":"lab"/s/:"bridge"/:"macvlan"/' ;;
    *) exec /usr/bin/docker "$@" ;;
esac
end
chmod 755 /usr/local/sbin/docker && """
NO_STRANGER = "systemctl stop lab-stranger"
#: A program of another version in front of the real one: PATH, name, option, what it says.
_FAKE = (
    'printf \'#!/bin/sh\\ncase "$*" in %s) echo "%s" >&{fd}; exit;; esac\\nexec {real} "$@"\\n\''
    " '{when}' '{says}' >/usr/local/sbin/{name} && chmod 755 /usr/local/sbin/{name}"
)


def old(
    name: str, broken: str, real: str, when: str, says: str, package: str, fd: int = 1
) -> Sabotage:
    """A program that says it is old, without the changelog in which its holes are mended."""
    program = real.rpartition("/")[2]
    fake = _FAKE.format(real=real, name=program, when=when, says=says, fd=fd)
    docs, away = f"/usr/share/doc/{package}", "/var/tmp/lab-doc"
    return row(
        name,
        broken,
        f"{fake} && mkdir -p {away} && mv {docs}/changelog.* {away}/",
        undo=f"rm /usr/local/sbin/{program}; mv {away}/* {docs}/",
    )
