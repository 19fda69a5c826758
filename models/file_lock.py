"""A lock on a file, which the kernel gives back when its holder ends, however it ends."""

import errno
import fcntl
from pathlib import Path


def lock(descriptor: int, path: Path) -> str:
    """Hold the open file `path` until the last copy of its descriptor is closed; empty, or a warning where the file
    system has no locks (Lustre without its mount option): nothing keeps others away then.

    Raises BlockingIOError where another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # CIFS says EACCES
        raise BlockingIOError(errno.EWOULDBLOCK, f"another process holds {path}") from error
    except OSError as error:
        return f"{path} can't be locked ({error.strerror}); see to it that nobody starts the same twice."
    return ""
