"""Tests a configuration with nginx before any of it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.nginx import NGINX_FOLDER, TRIAL_FOLDER
from vllm_hosts.host.paths import LOOK
from vllm_hosts.operations import differences
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.confirmed import connector_options
from vllm_hosts.operations.tree import archive
from vllm_hosts.text import clean

#: First word of the script's output if the host cannot be asked in this way.
_UNASKED = "vllm-hosts-unasked"
#: The prefix of a message in the format of nginx's logs.
_LOGGED = re.compile(r"^[0-9/]+ [0-9:]+ (\[\w+\]) [0-9#]+: ")


@host_operation
def configuration_accepted(plan: Callable[[], Sequence[Entry]]) -> Commands:
    """Fail the host with nginx's own sentence if it would refuse these files.

    Only nginx sees them, in place of its present ones and among everything else in /etc/nginx, and
    nothing of it remains. Never counts as a change.

    :param plan: the files, and paths that must not exist, all below /etc/nginx; empty: nothing to
        test.
    """
    entries = plan()
    # A run that only collects differences must write nothing on a host, not even for a moment.
    if entries and not differences.asked_for():
        _ask(entries)
    yield from ()


def _ask(entries: Sequence[Entry]) -> None:
    state, host = ctx_state.get(), ctx_host.get()
    command = trial(entries)
    # pyinfra itself would add the standard input only when it executes the command.
    options = {**connector_options(state, host), **command.connector_arguments}
    accepted, output = host.run_shell_command(
        command, print_output=False, print_input=False, **options
    )
    if accepted:
        return
    said = clean(sentences(output.stderr_lines) or output.stdout, 1500)
    if output.stdout.startswith(_UNASKED):
        say([f"nginx's configuration can be tested only once it is in place: {said}"])
        return
    raise HostError(
        f"nginx would reject the edge's configuration: {said}; change the setting or the file"
        " concerned ('nginx -T' on the host shows all files) and deploy again. The edge was not"
        " changed, and no image or model was fetched"
    )


def sentences(lines: Sequence[str]) -> str:
    """nginx's messages, each once, without time stamps and without the closing line."""
    plain = [_LOGGED.sub(r"nginx: \1 ", line) for line in lines]
    return "; ".join(dict.fromkeys(line for line in plain if not line.endswith(" test failed")))


def trial(entries: Sequence[Entry], *, folder: str = NGINX_FOLDER) -> StringCommand:
    """The command that succeeds if nginx accepts these files.

    All of /etc/nginx is rebuilt from links to what is there, the files are added, and nginx finds
    the result under the usual path, in a mount namespace that ends with the command.

    :param folder: nginx's; another one in tests.
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
        work=$(mktemp -d {LOOK})
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
