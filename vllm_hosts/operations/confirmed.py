"""Changes that could lock everybody out: the host rolls them back unless they are confirmed.

The host starts a timer that undoes the change, the change is made, and a *new* connection from here
stops the timer. Whatever goes wrong in between (this machine locked out, the network gone, the run
cut off), the host returns to what it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote
from typing import Any

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from vllm_hosts.host.paths import COPIES, DEPLOYED, UNDO
from vllm_hosts.operations.base import fail
from vllm_hosts.operations.notes import NOTES

#: Seconds after which an unconfirmed change is undone.
PATIENCE = 60
#: Seconds for trying a new connection; the rest is for the rollback itself.
_TRY_FOR = 25.0
_FOLDER = UNDO


#: The record of the files is restored with them, or they would count as changed by somebody else.
_SAVE_NOTES = """
printf '%s\\n' {files} >.ours
: >.was; [ ! -e {deployed} ] ||
    awk 'NR == FNR {{ ours[$0]; next }} $2 in ours' .ours {deployed} >.was
for path in {files}; do
    [ ! -e "{copies}$path" ] || {{
        mkdir -p "copies${{path%/*}}"; cp -p "{copies}$path" "copies$path"
    }}
done
"""
_UNDO_NOTES = """
umask 077; work=.; deployed={deployed}
{notes}
[ ! -e "$deployed" ] || noted .was
for path in {files}; do
    rm -f "{copies}$path"; [ ! -e "copies$path" ] || cp -p "copies$path" "{copies}$path"
done
"""


def armed(name: str, files: Sequence[str], *, save: str, undo: str) -> StringCommand:
    """Have the host undo the change that follows after ``PATIENCE`` seconds.

    :param name: one word for the change.
    :param files: absolute paths of the files that it changes and ``undo`` restores.
    :param save: shell lines that save the present state in the current folder, for root only.
    :param undo: shell lines that restore it, run in the same folder.
    """
    folder, unit = f"{_FOLDER}/{name}", f"vllm-hosts-undo-{name}"
    record = {"files": " ".join(files), "deployed": DEPLOYED, "copies": COPIES, "notes": NOTES}
    before, after = (_SAVE_NOTES, _UNDO_NOTES) if files else ("", "")
    undo = f"cd {folder} || exit 1; {undo}\n{after.format(**record)}: >undone"
    return StringCommand(
        f"""
        set -eu; umask 077
        systemctl stop {unit}.timer 2>/dev/null || :
        systemctl reset-failed {unit}.service 2>/dev/null || :
        rm -rf {folder}; mkdir -p {folder}; cd {folder}
        {save}
        {before.format(**record)}
        printf '%s\\n' {quote(undo)} >undo.sh
        systemd-run --quiet --collect --unit={unit} --on-active={PATIENCE}s \
            --timer-property=AccuracySec=500ms /bin/sh {folder}/undo.sh
        """
    )


def confirmed(name: str, blame: str) -> FunctionCommand:
    """Stop the timer over a new connection; if none opens, wait for the rollback and fail.

    :param blame: end of the sentence that the host then fails with.
    """
    return FunctionCommand(_confirm, (name, blame), {})


def _confirm(state: State, host: Host, name: str, blame: str) -> bool:
    folder = f"{_FOLDER}/{name}"
    stop = (
        f"systemctl stop vllm-hosts-undo-{name}.timer && [ ! -e {folder}/undone ]"
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
    done, _ = host.run_shell_command(
        StringCommand(undone_within(PATIENCE + 15, folder)),
        print_output=False,
        print_input=False,
        **connector_options(state, host),
    )
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
    except (ConnectError, OSError, EOFError) as error:
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
