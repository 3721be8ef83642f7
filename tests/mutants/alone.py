"""A process that may break things: what it can write is a folder that goes with it, and no more.

Changed scripts run as root here, and one that lost a line may remove what it should not.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from pathlib import Path

_NEW_MOUNTS = 0x00020000
_PRIVATE = 0x00040000 | 0x4000
_RECURSIVE = 0x8000
_MOUNT_SETATTR, _HERE = 442, -100
_READ_ONLY = 1
#: More is a loop that collects something for ever.
_MEMORY = 4 << 30


def keep_to(folder: Path) -> None:
    """Leave this process and those that it starts only ``folder`` and /run to write, both empty.

    :raises OSError: not root, or the kernel is older than 5.12.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def done(code: int) -> None:
        if code:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    done(libc.unshare(_NEW_MOUNTS))
    done(libc.mount(b"none", b"/", None, _PRIVATE, None))
    read_only = struct.pack("QQQQ", _READ_ONLY, 0, 0, 0)
    done(libc.syscall(_MOUNT_SETATTR, _HERE, b"/", _RECURSIVE, read_only, len(read_only)))
    for path, options in ((folder, b"size=512m,mode=755"), (Path("/run"), b"size=64m,mode=755")):
        done(libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
