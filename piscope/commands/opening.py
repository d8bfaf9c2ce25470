"""The TRACE argument of a command: a file, or `-` for standard input."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from piscope.errors import UsageError

if TYPE_CHECKING:
    from piscope.sources.raw import Source

__all__ = ("opened",)


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """The trace at `path`, closed when the block ends.

    Standard input is first copied to a temporary file, since trace.dat and perf.data
    point back and forth in themselves and a report may need a second pass; the file
    is removed at the end.

    Raises UsageError when standard input is a terminal, and what open_trace raises.
    """
    from piscope.sources.detect import open_trace

    if path != "-":
        source = open_trace(path)
        try:
            yield source
        finally:
            source.close()
        return
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe a trace into it", path="-")
    with tempfile.NamedTemporaryFile(prefix="piscope-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, 1 << 20)
        copy.flush()
        source = open_trace(copy.name)
        source.info.path = "-"
        try:
            yield source
        finally:
            source.close()
