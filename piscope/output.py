"""Files that appear whole or not at all.

A result is written beside its destination under a temporary name and renamed when
it is complete, so that a reader never meets half of one, and an interrupted run
leaves the old file as it was.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from piscope.errors import UsageError

__all__ = ("replacing",)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well.

    A symbolic link stays and its target is replaced. An existing file keeps its
    permissions. What is not a regular file (a pipe, /dev/stdout) is written to
    directly, since it can't be replaced.

    Raises UsageError, naming the path, when it is a directory, when its folder does
    not exist or can't be written to, or when the device is full.
    """
    final = Path(path)
    try:
        final = final.resolve()
        mode = final.stat().st_mode if final.exists() else None
        if mode is not None and stat.S_ISDIR(mode):
            raise UsageError("is a directory, expected a file to write", path=path)
        if mode is not None and not stat.S_ISREG(mode):
            with final.open("wb") as direct:
                yield direct
            return
        yield from _replace(final, mode)
    except BrokenPipeError:
        raise
    except OSError as e:
        if e.filename is not None and Path(e.filename).parent != final.parent:
            raise  # the block's own trouble with another file
        raise UsageError(f"can't be written: {e.strerror or e}", path=path) from e


def _replace(final: Path, mode: int | None) -> Iterator[BinaryIO]:
    descriptor, name = tempfile.mkstemp(
        prefix=f".{final.name[:64]}.", suffix=".part", dir=final.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        # mkstemp makes files private; a result is as readable as any other file.
        Path(name).chmod(stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
        Path(name).replace(final)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
