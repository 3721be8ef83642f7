"""From GPU boxes to vLLM endpoints: authenticated, TLS-terminated and closed from outside."""

import sys

__version__ = "0.1.0"


def compiled_once() -> None:
    """Have Python keep what it compiles. pyinfra's command switches that off for all that it loads,
    and a checkout would be compiled anew in each run. Whoever asked Python not to write (``-B``,
    PYTHONDONTWRITEBYTECODE) is heard."""
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


# Before a module of ours is loaded.
compiled_once()
