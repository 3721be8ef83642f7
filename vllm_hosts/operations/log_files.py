"""Log files that a program appends to, and that not everybody may read."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Kept, differing
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import entries_differ


@host_operation
def log_files_present(paths: Sequence[str]) -> Commands:
    """Create nginx's logs before it would, readable by all; never changes their content.

    :param paths: in a folder where only root can create files.
    """
    wanted = [Kept(path, mode=0o640, owner="www-data", group="adm") for path in paths]
    found = look(TreeState, paths=list(paths), content=False)
    different = differing(wanted, found.paths)
    if not different:
        return
    entries_differ(different, found.paths)
    script = ["set -eu; umask 077"]
    for path in (entry.path for entry in different):
        script += [
            f"[ -f {path} ] && [ ! -L {path} ] || {{ rm -f {path}; : >{path}; }}",
            f"chown www-data:adm {path}; chmod 0640 {path}",
        ]
    # A running nginx still has the old files open, and now opens the new ones.
    script.append(
        "! systemctl -q is-active nginx.service ||"
        " systemctl kill -s USR1 --kill-who=main nginx.service"
    )
    yield StringCommand("\n".join(script))
