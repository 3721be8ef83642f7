"""Changes that could lock everybody out: the host rolls them back unless they are confirmed.

The host starts a timer that undoes the change, the change is made, and a *new* connection from here
stops the timer. Whatever goes wrong in between (this machine locked out, the network gone, the run
cut off), the host returns to what it was. A boot before the confirmation returns to that as well:
what is needed for it is on disk before the change is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote
from typing import Any

from paramiko import SSHException
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from vllm_hosts.host.paths import COPIES, DEPLOYED, UNCONFIRMED, UNCONFIRMED_UNIT, UNDO
from vllm_hosts.operations.base import fail
from vllm_hosts.operations.notes import NOTES

#: Seconds after which an unconfirmed change is undone.
PATIENCE = 60
#: Seconds for trying a new connection; the rest is for the rollback itself.
_TRY_FOR = 25.0
_FOLDER, _KEPT, _UNIT = UNDO, UNCONFIRMED, UNCONFIRMED_UNIT
#: What paramiko and pyinfra raise where a connection does not open, or is open no more.
_LOST = (ConnectError, OSError, EOFError, SSHException)
#: sshd starts after it, with sockets and all else that names no order of its own.
_TARGET = "sysinit.target"


#: The record of the files is restored with them, or they would count as changed by somebody else.
_SAVE = """
for path in {files}; do
    mkdir -p "files${{path%/*}}"
    if [ -e "$path" ] || [ -L "$path" ]; then cp -dp "$path" "files$path"; fi
done
printf '%s\\n' {files} >.ours
: >.was; [ ! -e {deployed} ] ||
    awk 'NR == FNR {{ ours[$0]; next }} $2 in ours' .ours {deployed} >.was
for path in {files}; do
    [ ! -e "{copies}$path" ] || {{
        mkdir -p "copies${{path%/*}}"; cp -p "{copies}$path" "copies$path"
    }}
done
"""
#: Each file is the old or the new one at every moment, and on disk before it counts as undone.
_UNDO_FILES = """
umask 077; whole=yes
for path in {files}; do
    if [ -e "files$path" ] || [ -L "files$path" ]; then
        new=$path.vllm-hosts-new
        cp -dp "files$path" "$new" && {{ [ -L "$new" ] || sync "$new"; }} &&
            mv -fT "$new" "$path" || whole=
    else
        rm -f "$path" || whole=
    fi
    [ ! -d "${{path%/*}}" ] || sync "${{path%/*}}" || whole=
done
"""
_UNDO_NOTES = """
work=.; deployed={deployed}
{notes}
[ ! -e "$deployed" ] || noted .was
for path in {files}; do
    rm -f "{copies}$path"; [ ! -e "copies$path" ] || cp -p "copies$path" "{copies}$path"
done
"""
#: Runs at boot, and not in the boot in which the change was made: whatever is started there asks
#: for what its targets want once more.
_UNIT_TEXT = """# Managed by vllm-hosts.
[Unit]
Description=Undo changes of vllm-hosts that nobody has confirmed
DefaultDependencies=no
RequiresMountsFor={kept}
ConditionPathExists=!{folder}
ConditionPathExists={kept}/boot.sh
After=local-fs.target
Before={target} vllm-hosts-firewall.service ssh.service ssh.socket shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/bin/sh {kept}/boot.sh
"""
_BOOT = """
cd {kept} || exit 1; whole=yes
for one in */undo.sh; do
    [ ! -e "$one" ] || sh "$one" || {{ whole=; echo "${{one%/*}} is not as it was" >&2; }}
done
[ -n "$whole" ] || exit 1
{forgotten}
"""


def _wanted() -> str:
    """The link by which the unit starts at boot."""
    folder, _, name = _UNIT.rpartition("/")
    return f"{folder}/{_TARGET}.wants/{name}"


def _forgotten() -> str:
    """Shell: where no change waits any more, nothing is left of what a boot would do."""
    return (
        f"ls {_KEPT}/*/undo.sh >/dev/null 2>&1 || {{ rm -f {_wanted()} {_UNIT}; rm -rf {_KEPT}; }}"
    )


def _settled(name: str) -> str:
    """Shell: from here on a boot leaves the change as it is now, also after a loss of power."""
    return (
        f"{{ [ ! -d {_KEPT}/{name} ] || {{ rm -f {_KEPT}/{name}/undo.sh"
        f" && sync {_KEPT}/{name}; }}; }} && {{ {_forgotten()}; }}"
        " && { systemctl daemon-reload 2>/dev/null || :; }"
    )


def _kept(name: str, boot: str) -> str:
    """Shell: what the current folder has saved is on disk, and a boot would return to it."""
    state, units, wants = _KEPT.rpartition("/")[0], _UNIT.rpartition("/")[0], _wanted()
    kept = f"{_KEPT}/{name}"
    unit = _UNIT_TEXT.format(kept=_KEPT, folder=_FOLDER, target=_TARGET)
    return f"""
        (umask 022; mkdir -p {state} {wants.rpartition("/")[0]})
        rm -rf {kept}; mkdir -p {_KEPT}; cp -a . {kept}
        printf '%s\n' {quote(_BOOT.format(kept=_KEPT, forgotten=_forgotten()))} >{_KEPT}/boot.sh
        printf '%s\n' {quote(boot)} >{kept}/undo.sh
        printf '%s' {quote(unit)} >{_UNIT}; chmod 0644 {_UNIT}
        find {_KEPT} ! -type l -exec sync {{}} +; sync {state} {_UNIT} {units}
        ln -sfn {_UNIT} {wants}; sync {wants.rpartition("/")[0]} {units}"""


def armed(name: str, files: Sequence[str], *, save: str, undo: str) -> StringCommand:
    """Have the host undo the change that follows after ``PATIENCE`` seconds, or at a boot before.

    :param name: one word for the change.
    :param files: absolute paths of the files that it changes, which are restored.
    :param save: shell lines that save what else there is, in the current folder, for root only.
    :param undo: shell lines that restore that in the same folder, and let the files be read again.
        A boot needs none of it.
    """
    folder, unit = f"{_FOLDER}/{name}", f"vllm-hosts-undo-{name}"
    record = {"files": " ".join(files), "deployed": DEPLOYED, "copies": COPIES, "notes": NOTES}
    back, notes = _UNDO_FILES.format(**record), _UNDO_NOTES.format(**record)
    boot = f'cd {_KEPT}/{name} || exit 1{back}{notes}[ -n "$whole" ] || exit 1\nrm -f undo.sh'
    # Not settled where a file could not be restored: then a boot tries again.
    settled = f'[ -z "$whole" ] || {{ {_settled(name)}; }}'
    script = f"cd {folder} || exit 1{back}{undo}\n{notes}{settled}\n: >undone"
    return StringCommand(
        f"""
        set -eu; umask 077
        systemctl stop {unit}.timer 2>/dev/null || :
        systemctl reset-failed {unit}.service 2>/dev/null || :
        rm -rf {folder}; mkdir -p {folder}; cd {folder}
        {save}
        {_SAVE.format(**record)}{_kept(name, boot)}
        printf '%s\n' {quote(script)} >undo.sh
        systemd-run --quiet --collect --unit={unit} --on-active={PATIENCE}s \
            --timer-property=AccuracySec=500ms /bin/sh {folder}/undo.sh
        """
    )


def confirmed(name: str, blame: str, *, before: str = ":") -> FunctionCommand:
    """Stop the timer over a new connection; if none opens, wait for the rollback and fail.

    :param blame: end of the sentence that the host then fails with.
    :param before: shell command without which a boot would not come up with the change.
    """
    return FunctionCommand(_confirm, (name, blame, before), {})


def _confirm(state: State, host: Host, name: str, blame: str, before: str) -> bool:
    folder = f"{_FOLDER}/{name}"
    # The timer last: what is cut off before that is undone, and nothing is left for a later boot.
    stop = (
        f"[ ! -e {folder}/undone ] && {before} && {{ {_settled(name)}; }}"
        f" && systemctl stop vllm-hosts-undo-{name}.timer && [ ! -e {folder}/undone ]"
        f" && rm -rf {folder}"
    )
    deadline = time.monotonic() + _TRY_FOR
    while True:
        why = _over_a_new_connection(state, host, stop)
        if why is None:
            return True
        if time.monotonic() >= deadline:
            break
        time.sleep(2)
    host.log(f"    no new connection opens; waiting for the host to roll back: {why}")
    try:
        done, _ = host.run_shell_command(
            StringCommand(undone_within(PATIENCE + 15, folder)),
            print_output=False,
            print_input=False,
            **connector_options(state, host),
        )
    except _LOST:
        # It has booted: that undoes the change as well, but nobody says so.
        done = False
    ending = (
        "so the host rolled back" if done else "and the host has not confirmed that it rolled back"
    )
    return fail(
        state, host, f"after the change no new connection opened ({why}), {ending}; {blame}"
    )


def undone_within(seconds: int, folder: str) -> str:
    """Shell: wait until the host has undone a change; fails if it has not by then."""
    return (
        f"i=0; until [ -e {folder}/undone ]; do"
        f" sleep 1; i=$((i+1)); [ $i -lt {seconds} ] || exit 1; done"
    )


def _over_a_new_connection(state: State, host: Host, command: str) -> str | None:
    """Run a command over a new connection. Returns why that did not work, or None."""
    connector = type(host.connector)(state, host)
    try:
        connector.connect()
        done, output = connector.run_shell_command(
            StringCommand(command),
            print_output=False,
            print_input=False,
            **connector_options(state, host),
        )
    except _LOST as error:
        return str(error) or repr(error)
    else:
        return None if done else f"the timer could not be stopped: {output.stderr}"
    finally:
        # pyinfra's own disconnect leaves the connection open until the run ends.
        if client := getattr(connector, "client", None):
            client.close()


def connector_options(state: State, host: Host) -> dict[str, Any]:
    """Options for commands outside of an operation: sudo, the shell and so on."""
    arguments, _ = pop_global_arguments(state, host, {})
    return {key: arguments.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
