"""Asking nginx about a configuration before anything of it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.nginx import NGINX_FOLDER, TRIAL_FOLDER
from vllm_hosts.operations import differences
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.confirmed import connector_options
from vllm_hosts.operations.tree import archive
from vllm_hosts.text import clean

#: First word of what the script prints where the host cannot be asked in this way.
_UNASKED = "vllm-hosts-unasked"
#: What nginx puts before a sentence in the format of its logs.
_LOGGED = re.compile(r"^[0-9/]+ [0-9:]+ (\[\w+\]) [0-9#]+: ")


@host_operation
def configuration_accepted(plan: Callable[[], Sequence[Entry]]) -> Commands:
    """Fail the host with nginx's own sentence if it would refuse these files.

    nginx sees them in the place of what it has, with whatever else lies below /etc/nginx; nobody
    else does, and nothing of it stays. Never counts as a change.

    :param plan: the files and what must not be there, all below /etc/nginx; nothing: nothing is to
        be asked.
    """
    entries = plan()
    # Who asks what differs on a host wants nothing to be written there, not even for a moment.
    if entries and not differences.asked_for():
        _ask(entries)
    yield from ()


def _ask(entries: Sequence[Entry]) -> None:
    state, host = ctx_state.get(), ctx_host.get()
    command = trial(entries)
    # What a command is given on standard input is otherwise added by pyinfra, as it executes it.
    options = {**connector_options(state, host), **command.connector_arguments}
    accepted, output = host.run_shell_command(
        command, print_output=False, print_input=False, **options
    )
    if accepted:
        return
    said = clean(sentences(output.stderr_lines) or output.stdout, 1500)
    if output.stdout.startswith(_UNASKED):
        say([f"nginx is asked about its configuration only when it gets it: {said}"])
        return
    raise HostError(
        f"nginx would refuse the edge's configuration: {said}; change the setting or the file that"
        " this is about ('nginx -T' on the host shows all files) and deploy again. Nothing of the"
        " edge was changed, and no image or model was fetched"
    )


def sentences(lines: Sequence[str]) -> str:
    """What nginx said, each sentence once, without its clock and without its closing line."""
    plain = [_LOGGED.sub(r"nginx: \1 ", line) for line in lines]
    return "; ".join(dict.fromkeys(line for line in plain if not line.endswith(" test failed")))


def trial(entries: Sequence[Entry], *, folder: str = NGINX_FOLDER) -> StringCommand:
    """The command that succeeds if nginx accepts these files.

    The whole of /etc/nginx is made anew from links to what is there, the files are put into it, and
    nginx finds it under its own name: in a mount namespace, which ends with the command.

    :param folder: nginx's, elsewhere in tests.
    """
    files = [entry for entry in entries if isinstance(entry, File)]
    gone = " ".join(
        f"tree{entry.path.removeprefix(folder)}" for entry in entries if isinstance(entry, Absent)
    )
    inside = f"""
        mount --rbind {folder} was && cp -as "$PWD/was/." tree/ || exit 77
        cp -a --remove-destination new{folder}/. tree/
        rm -f {gone or "-"}; mkdir -p tree/{TRIAL_FOLDER.rpartition("/")[2]}
        mount --bind tree {folder} || exit 77
        nginx -t -q -c {folder}/nginx.conf || exit 1
    """
    return StringCommand(
        f"""
        set -eu; umask 077
        work=$(mktemp -d /run/vllm-hosts.XXXXXX)
        # Of what is mounted below it in the namespace, nothing is to be seen or removed here.
        trap 'rm -rf --one-file-system "$work"' EXIT; trap 'exit 1' HUP INT TERM PIPE
        cd "$work"; mkdir new was tree
        base64 -d | tar -x -p -f - -C new
        # nginx makes this file even where it is only asked.
        [ -e /run/nginx.pid ] || made=yes
        code=0
        unshare -m --propagation private sh -eu -c '{inside}' </dev/null >said 2>&1 || code=$?
        [ -z "${{made:-}}" ] || [ -s /run/nginx.pid ] || rm -f /run/nginx.pid
        [ $code -ne 0 ] || exit 0
        # 77, or unshare's own: it may not be allowed, as in some containers, or not be there.
        [ $code -ne 127 ] && ! grep -q '^unshare:' said || code=77
        [ $code -ne 77 ] || echo {_UNASKED}
        cat said >&2; exit 1
        """,
        _stdin=archive(files, suffix=""),
    )
