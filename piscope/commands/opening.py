"""The TRACE argument of a command: a file, or `-` for standard input."""

from __future__ import annotations

import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from piscope.errors import UsageError

if TYPE_CHECKING:
    from piscope.sources.raw import Source

__all__ = ("is_pipe", "opened")

_COPY_BYTES = 1 << 20


@contextmanager
def opened(path: str, *, twice: bool = False) -> Iterator[Source]:
    """The trace at `path`, closed when the block ends.

    What can be read only once (a pipe) is first copied to a temporary file, if the
    caller is going to read it `twice`; the file is removed at the end.

    Raises UsageError when standard input is a terminal, or when the copy would take
    more than half of the free space, and whatever open_trace raises.
    """
    from piscope.sources.detect import open_trace

    if path == "-" and sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe a trace into it", path="-")
    with ExitStack() as stack:
        readable = path
        if twice and is_pipe(path):
            stream = (
                sys.stdin.buffer
                if path == "-"
                else stack.enter_context(Path(path).open("rb"))
            )
            readable = stack.enter_context(_copied(stream)).name
        source = open_trace(readable)
        stack.callback(source.close)
        if readable != path:
            source.info.path = "<stdin>" if path == "-" else path
        yield source


def is_pipe(path: str) -> bool:
    """Whether the trace at `path` can be read only once."""
    if path == "-":
        return not sys.stdin.seekable()
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode) and not Path(path).is_dir()
    except OSError:
        return False  # open_trace says what is wrong with it


@contextmanager
def _copied(stream: BinaryIO) -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
    most_bytes = shutil.disk_usage(tempfile.gettempdir()).free // 2
    with tempfile.NamedTemporaryFile(prefix="piscope-") as copy:
        done_bytes = 0
        while part := stream.read(_COPY_BYTES):
            done_bytes += len(part)
            if done_bytes > most_bytes:
                raise UsageError(
                    "to be read twice, the pipe needs more than half of the free space"
                    f" of {tempfile.gettempdir()}: give a file, or set TMPDIR"
                )
            copy.write(part)
        copy.flush()
        yield copy
