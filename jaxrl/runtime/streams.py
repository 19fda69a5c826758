"""Standard output and error that cannot end a run: output that cannot be written is dropped."""

import contextlib
import io
from typing import TextIO


class _DroppingFile(io.FileIO):
    """A file that drops data if the disk is full or the pipe is closed."""

    def write(self, data: memoryview) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def drop_write_errors(stream: TextIO | None) -> TextIO | None:
    """A stream to the same file that drops output instead of raising OSError. A stream in memory is returned unchanged.

    Use it for the messages of a run, which are also in the run folder. A command whose result is its standard output
    must fail instead.
    """
    try:
        file = _DroppingFile(stream.fileno(), "wb", closefd=False)
    except (AttributeError, OSError):  # closed, or in memory
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )
