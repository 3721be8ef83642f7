"""What the files of a site run, such as deploy.py: ours, so that an upgrade edits no site."""

from pathlib import Path

from pyinfra_cli.util import exec_file

_HERE = Path(__file__).parent


def everything() -> None:
    """The main job: every role, in the toolkit's order."""
    # Not pyinfra's `include`, which would put the file's name in front of every operation's.
    exec_file(str(_HERE / "deploy.py"))


def only_keys() -> None:
    """Clients' keys alone."""
    exec_file(str(_HERE / "keys.py"))


def back() -> None:
    """The agents as they were before the last deploy."""
    exec_file(str(_HERE / "rollback.py"))


def removal() -> None:
    """Everything of ours away again."""
    exec_file(str(_HERE / "remove.py"))
