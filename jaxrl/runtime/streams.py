"""Standard output and error that end no run: what can't be shown is not shown."""

import contextlib
import io
from typing import TextIO


class _Unfailing(io.FileIO):
    """A file that takes all it is given, also where the disk is full or nobody reads the pipe any more."""

    def write(self, data: memoryview) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def unfailing(stream: TextIO | None) -> TextIO | None:
    """A stream to the same file that drops what the file refuses; a stream without a file stays as it is.

    Only for what is told of a run, which is in its folder too: where the text is what was asked for, its loss is an
    error.
    """
    try:
        file = _Unfailing(stream.fileno(), "wb", closefd=False)
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
