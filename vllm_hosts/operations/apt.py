"""Packages and third-party archives through apt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from shlex import quote

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.apt import AptKeyFingerprints, AptPackages, AptSourceFiles, Packages
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.apt_entries import Edit, in_the_way, is_key, mentioned
from vllm_hosts.host.archives import Archive
from vllm_hosts.host.files import differing
from vllm_hosts.host.manifest import bringing, brought
from vllm_hosts.host.paths import PREVIOUS, WORK
from vllm_hosts.operations import apt_lists
from vllm_hosts.operations.base import NOTE, Commands, host_operation, watched
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.foreseen import will_change
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.operations.outage import outage

#: Waits for another apt (unattended-upgrades on a fresh boot) instead of failing at once, keeps
#: configuration that people changed, and never asks.
_APT_GET = (
    "DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y"
    " -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0"
    " -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)


#: After dpkg was killed, by us or by others, apt does nothing until its work is finished.
_UPDATES = "/var/lib/dpkg/updates"


#: apt waits for dpkg's lock by itself, and says who has it; older ones do not for the lists'.
_FREE = r"""
    apt_free() { # until nobody reads the lists, or for ten minutes
        waited=0
        while [ -e "$1" ] && pid=$(awk -v inode="$(stat -c %i "$1")" \
            '$4 == "WRITE" && $6 ~ ":" inode "$" { print $5; exit }' /proc/locks) && [ -n "$pid" ]
        do
            who=$(tr -c '[:alnum:]._\n-' '?' 2>/dev/null <"/proc/$pid/comm" | head -n 1)
            [ $waited -lt "$2" ] || {
                echo "apt's lists are locked by $who (pid $pid) for $waited s; wait until it has" \
                    "ended, then run this again"; exit 1; }
            [ $((waited % 30)) != 0 ] || echo "waiting for $who (pid $pid), which has apt's lists"
            sleep 2; waited=$((waited + 2))
        done
    }
"""
_LISTS = "/var/lib/apt/lists/lock"


def _read_lists(options: str = "") -> str:
    """Shell: read what the archives have, when nobody else does."""
    return f"{_FREE.strip()}; apt_free {_LISTS} 600; {_APT_GET} update{options}"


def _read_alone(source: str) -> str:
    """Shell: read the lists of one source file; those of others stay. As a folder of sources, in
    place of a file, apt would take it for an empty one."""
    return (
        f"{_APT_GET} update -o Dir::Etc::SourceList={source} -o Dir::Etc::SourceParts=/dev/null"
        " -o APT::Get::List-Cleanup=0"
    )


def _finished(command: str) -> str:
    """Shell: an apt command; if it fails over an interrupted dpkg, that is finished first."""
    return (
        f"{command} || {{ ls {_UPDATES} 2>/dev/null | grep -q '^[0-9]' &&"
        " echo 'finishing what was interrupted' && DEBIAN_FRONTEND=noninteractive dpkg"
        f" --force-confdef --force-confold --configure -a && {command}; }} || exit 1"
    )


def lists_read() -> Commands:
    """The command that reads the archives' lists."""
    yield watched("reading the archives' lists", _read_lists())
    apt_lists.have_been_read()


def _with_lists(then: str) -> str:
    """Shell: do something that needs the lists, which are not read anew where this run has just
    done so. If it fails with those, such as over a version that an archive has replaced meanwhile,
    it is done again with new ones."""
    read = f"{_read_lists()}; {then}"
    if not apt_lists.recent():
        return read
    # What stands before || would go on after errors, were it not started apart.
    return (
        f"tried=0; ( {then} ) & wait $! || tried=$?; [ $tried = 0 ] || {{"
        f" echo 'once more, with new lists'; {read}; }}"
    )


@host_operation
def archive_present(describe: Callable[[], Archive], *, stale: Sequence[str] = ()) -> Commands:
    """Make an archive known to apt, trusted by one pinned key.

    The key is fetched by the host itself with apt's own downloader, so that the host's proxies
    apply, and refused unless it is exactly the pinned one.

    Other entries for the same archive are disabled, whatever their file is called, since apt
    refuses two ``Signed-By`` for one archive. Copies of them are kept.

    :param describe: returns the archive; it may query the host.
    :param stale: further source files and keys to remove.
    """
    archive = describe()
    remember([archive.source])
    yield from archive_added(archive, stale=stale)


def archive_added(archive: Archive, *, stale: Sequence[str] = ()) -> Commands:
    """The commands of ``archive_present``, for operations that do more."""
    wanted = archive.source
    files = look(TreeState, paths=[wanted.path, *stale])
    sources = look(AptSourceFiles)
    keys = look(AptKeyFingerprints, key_path=archive.key_path)
    edits = in_the_way(sources, archive.url, archive.suite, archive.architecture, but=wanted.path)
    seen = [edit.path for edit in edits]
    there = [path for path in stale if files.paths[path].kind != "-" and path not in seen]
    edits += [Edit(path, None) for path in there if not is_key(path)]
    # An archive that stays may use the same key.
    leaving = [wanted.path, *(edit.path for edit in edits if edit.sed is None)]
    keys_too = [path for path in there if is_key(path)]
    edits += [Edit(path, None) for path in keys_too if not mentioned(path, sources, leaving)]
    key_is_right = keys == (archive.key_fingerprint,)
    if key_is_right and not edits and not differing([wanted], files.paths):
        return
    entries_differ(differing([wanted], files.paths), files.paths)
    for edit in edits:
        differs(edit.path, "names the same archive a second time")
    if not key_is_right:
        differs(archive.key_path, "is not the pinned key")
    yield watched(
        f"adding {archive.url}", archive_script(archive, edits), notes=True, heard=_all_lists
    )


#: What adding an archive says once it has read all lists for that; else it reads its own alone.
_GPG_FIRST = "gpg and ca-certificates were installed first"


def _all_lists(said: str) -> None:
    if _GPG_FIRST in said:
        apt_lists.have_been_read()


def archive_script(archive: Archive, edits: Sequence[Edit]) -> str:
    """Shell: fetch the key, disable other entries, add the archive, read its lists.

    However it ends, either all of that is done or nothing has changed. If it is killed, the host is
    left without the archive, never with two entries for it, which would stop apt; other entries
    have been copied by then, and the next run adds the archive.
    """
    wanted = archive.source
    paths = [*(edit.path for edit in edits), archive.key_path, wanted.path]
    give_way = [
        f"rm -f {quote(edit.path)}"
        if edit.sed is None
        else f"sed -i {' '.join(f'-e {quote(one)}' for one in edit.sed)} {quote(edit.path)}"
        for edit in edits
    ]
    keep = [
        f'mkdir -p {PREVIOUS}"$(dirname {quote(edit.path)})";'
        f" cp -dp --remove-destination {quote(edit.path)} {PREVIOUS}{quote(edit.path)};"
        f' brought "gave-way {_digest_after(edit)} "{quote(edit.path)}'
        for edit in edits
    ]
    return f"""
        set -eu; umask 022
        {bringing()}
        command -v gpg >/dev/null && [ -s /etc/ssl/certs/ca-certificates.crt ] || {{
            echo 'installing gpg and ca-certificates'
            brought 'package gpg' 'package ca-certificates'
            {_APT_GET} update; {_APT_GET} install --no-install-recommends gpg ca-certificates
            echo '{NOTE}{_GPG_FIRST}'
        }}
        folder=$(mktemp -d {WORK}); touched=; finished=
        finish() {{
            code=$?; trap - EXIT
            if [ -z "$finished" ]; then
                for path in $touched; do # ours goes before what gave way to it comes back
                    if [ -e "$folder/was$path" ] || [ -L "$folder/was$path" ]; then
                        cp -dp --remove-destination "$folder/was$path" "$path" || :
                    else rm -f "$path"; fi
                done
                rm -f {wanted.path}.new {archive.key_path}.new
                [ -z "$touched" ] || ( echo 'the sources of apt are what they were before' ) || :
            fi
            rm -rf "$folder"; exit $code
        }}
        trap finish EXIT; trap 'exit 1' HUP INT TERM PIPE
        chmod 755 "$folder"; ! id _apt >/dev/null 2>&1 || chown _apt "$folder"
        /usr/lib/apt/apt-helper download-file {quote(archive.key_url)} "$folder/key" || {{
            echo 'the signing key at {archive.key_url} cannot be fetched'; exit 1; }}
        install -d -m 0700 "$folder/gpg" "$folder/was"
        prints=$(gpg --homedir "$folder/gpg" --batch --show-keys --with-colons "$folder/key" |
            awk -F: '$1 == "pub" {{ main = 1 }} $1 == "fpr" && main {{ print $10; main = 0 }}')
        [ "$prints" = {archive.key_fingerprint} ] || {{
            echo "the key at {archive.key_url} has fingerprint ${{prints:-none}}, not"
            echo 'the pinned {archive.key_fingerprint}; nothing was installed from this archive'
            exit 1; }}
        for path in {" ".join(quote(path) for path in paths)}; do
            [ -e "$path" ] || [ -L "$path" ] || continue
            mkdir -p "$folder/was$(dirname "$path")"; cp -dp "$path" "$folder/was$path"
        done
        brought 'source {wanted.path}' 'source {archive.key_path}'
        mkdir -p /etc/apt/keyrings; {"; ".join(keep) or ":"}
        touched={quote(" ".join(reversed(paths)))}
        {"; ".join(give_way) or ":"}
        install -m 0644 "$folder/key" {archive.key_path}.new
        printf '%s' {quote(wanted.content.decode())} >{wanted.path}.new
        mv -f {archive.key_path}.new {archive.key_path}; mv -f {wanted.path}.new {wanted.path}
        {_read_alone(wanted.path)}
        # All entries together: apt refuses to work while two of them disagree about one archive.
        apt-get indextargets >/dev/null
        finished=yes
    """


def _digest_after(edit: Edit) -> str:
    """Shell, in double quotes: the digest of what an edit makes of a file; ``-``: nothing."""
    if edit.sed is None:
        return "-"
    words = " ".join(f"-e {quote(one)}" for one in edit.sed)
    return f"$(sed {words} {quote(edit.path)} | sha256sum | cut -c 1-64)"


def _missing(wanted: Mapping[str, str | None], found: Packages, name: str) -> bool:
    there = found.versions.get(name)
    return there is None or wanted[name] not in (None, there)


def purge(names: Sequence[str]) -> str:
    """Shell: remove packages with their configuration, and nothing else: apt is asked first."""
    words = " ".join(names)
    return f"""
        set -e
        asked=$(apt-get -s -q -o APT::Get::AutomaticRemove=false purge {words})
        would=$(printf '%s\\n' "$asked" |
            awk '$1 == "Purg" || $1 == "Remv" || $1 == "Inst" {{ print $2 }}' | sort -u)
        for name in $would; do
            case " {words} " in *" ${{name%%:*}} "*) ;; *)
                echo "apt would remove or install $name as well; see: apt-get -s purge {words}"
                exit 1 ;;
            esac
        done
        # Some enable units of theirs, and leave that behind.
        for unit in $(dpkg -L {words} | sed -n 's,^.*/lib/systemd/system/,,p' |
            grep -E '^[^/@]*[.](service|socket|path|timer)$'); do
            case $unit in *.path | *.timer) systemctl stop $unit 2>/dev/null || : ;; esac
            systemctl disable --quiet $unit 2>/dev/null || :
        done
        {_finished(f"{_APT_GET} -o APT::Get::AutomaticRemove=false purge {words}")}
    """


@host_operation
def packages_present(
    wanted: Mapping[str, str | None] | Callable[[], Mapping[str, str | None]],
    *,
    held: bool = False,
    conflicting: Sequence[str] = (),
    before_removing: str = ":",
    without_starting: Sequence[str] = (),
    without_enabling: Sequence[str] = (),
    serving: Serving | None = None,
) -> Commands:
    """Install packages, at a version where one is given.

    :param wanted: version by package name; None: whichever is installed, or the archive's newest.
        A function is called once the host can be queried.
    :param held: keep them at that version through upgrades.
    :param conflicting: packages to remove first. Their data stays.
    :param before_removing: shell command to run first if any of those are installed.
    :param without_starting: units that Debian would start at once, before we configure them.
    :param without_enabling: units of newly installed packages that are not to start at boot either.
    :param serving: the host's agents, which go down when conflicting packages are removed.
    """
    yield from packages_installed(
        wanted() if callable(wanted) else wanted,
        held=held,
        conflicting=conflicting,
        before_removing=before_removing,
        without_starting=without_starting,
        without_enabling=without_enabling,
        serving=serving,
    )


def packages_installed(
    wanted: Mapping[str, str | None],
    *,
    held: bool = False,
    conflicting: Sequence[str] = (),
    before_removing: str = ":",
    without_starting: Sequence[str] = (),
    without_enabling: Sequence[str] = (),
    anew: bool = False,
    first: str = ":",
    serving: Serving | None = None,
) -> Commands:
    """The commands of ``packages_present``, for operations that do more.

    :param anew: request all of them although they are installed: other versions are wanted.
    :param first: shell command to run after reading the archives' lists, before installing.
    """
    found = look(AptPackages, names=[*wanted, *conflicting])
    remove = [name for name in conflicting if name in found.versions]
    missing = [
        name if version is None else f"{name}={version}"
        for name, version in wanted.items()
        if anew or _missing(wanted, found, name)
    ]
    hold = [name for name in wanted if held and name not in found.held]
    for package in remove:
        differs(f"package {package}", "should not be installed")
    for package in missing:
        differs(f"package {package}", "is not installed at this version")
    for package in hold:
        differs(f"package {package}", "is not held")
    will_change([*remove, *(name for name in wanted if anew or _missing(wanted, found, name))])
    removing = _finished(f"{_APT_GET} remove {' '.join(remove)}")
    removal = f"{before_removing}\n{removing}" if remove else ""
    new = [name for name in wanted if name not in found.versions]
    first = f"{first}; {brought('package', new)}"
    quiet = (without_starting, without_enabling if new else ())
    commands = _installation(wanted, remove, removal, missing, hold, quiet, first)
    if remove:
        removed = f"packages {' '.join(remove)} are replaced by {' '.join(wanted)}"
        yield from outage(commands, serving, removed)
    else:
        yield from commands


def held_now(names: Sequence[str]) -> StringCommand:
    """The command that holds packages at their version."""
    hold = f"apt-mark hold {' '.join(names)}"
    return watched("holding packages", f"set -e; {brought('hold', names)}; {hold}")


def _installation(
    wanted: Iterable[str],
    remove: Sequence[str],
    removal: str,
    missing: Sequence[str],
    hold: Sequence[str],
    quiet: tuple[Sequence[str], Sequence[str]],
    first: str,
) -> Commands:
    if remove:
        yield watched(f"removing {' '.join(remove)}", removal)
    if missing:
        words = " ".join(quote(name) for name in missing)
        install = (
            f"{_APT_GET} install --no-install-recommends --allow-downgrades"
            f" --allow-change-held-packages {words}"
        )
        # A masked unit cannot be started, until it is unmasked or the host boots.
        units, disabled = (" ".join(names) for names in quiet)
        disable = f"; systemctl disable --quiet {disabled}" if disabled else ""
        mask = f"systemctl mask --runtime --quiet {units};" if units else ""
        unmask = (
            f"trap 'systemctl unmask --runtime --quiet {units}{disable}' EXIT;" if units else ""
        )
        there = apt_lists.recent()
        yield watched(
            f"installing {' '.join(wanted)}",
            f"set -e; {unmask} {mask} {_with_lists(f'{first}; {_finished(install)}')}",
        )
        if not there:
            apt_lists.have_been_read()
    if hold:
        yield held_now(hold)
