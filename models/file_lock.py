"""An exclusive file lock, which the kernel releases when its process ends, even after a crash."""

import errno
import fcntl
from pathlib import Path


def lock(descriptor: int, path: Path) -> str:
    """Locks the open file `path` until the last copy of its descriptor is closed.

    Returns "" on success, or a warning if the file system has no locks (Lustre without its mount option); then nothing
    excludes other processes. Raises BlockingIOError if another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # CIFS returns EACCES
        raise BlockingIOError(errno.EWOULDBLOCK, f"another process holds {path}") from error
    except OSError as error:
        return f"{path} can't be locked ({error.strerror}); make sure that the same command is not started twice."
    return ""
