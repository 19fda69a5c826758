"""Errors of the file system while checkpoints are written, as one sentence that says what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TENSORSTORE_CODE = re.compile(r"os_error_code='(\d+)'")  # TensorStore raises ValueError with this in its text
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
    """Replace disk errors, also those of TensorStore, by an OSError with one sentence. Other errors are not changed."""
    try:
        yield
    except Exception as error:
        if explained := _explain(error, folder):
            raise explained from error
        raise


def _explain(error: Exception, folder: Path) -> OSError | None:
    number, text = getattr(error, "errno", None), str(error)
    if code := _TENSORSTORE_CODE.search(text):
        number = int(code.group(1))
    if number in _NO_SPACE or "No space left" in text:
        return OSError(errno.ENOSPC, f"no space left in {folder}; free some space")
    if number in _NOT_WRITABLE or "Permission denied" in text:
        message = f"{folder} is not writable ({error}); choose another --workdir or change its permissions"
        return OSError(number or errno.EACCES, message)
    if code:
        return OSError(number, f"writing to {folder} failed ({os.strerror(number)}); check the disk")
    return None
