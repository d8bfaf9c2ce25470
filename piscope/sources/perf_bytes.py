"""Bytes of a perf.data by their offset: from a file, or from a pipe once.

A recording that comes through a pipe can be read in order only. Its first part is
kept, because it must be read twice: at opening, for what the recording is, and
again for its events.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from piscope.errors import PiscopeError, UsageError

__all__ = ("PerfBytes", "open_bytes")

# What perf writes before the first event (formats, kernel and module maps, the
# names of all threads) is a few MiB; a recording with more has to be a file.
_KEPT_BYTES_MAX = 256 << 20


class PerfBytes:
    """Reads at any offset of a file, or at ascending ones of a pipe.

    size     in bytes; None for a pipe
    path     for messages
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self.path = path
        self._readinto: Callable[[memoryview], int | None] = (
            getattr(file, "readinto", None) or self._read_copy
        )
        self.seekable = file.seekable()
        self.size: int | None = None
        self._kept = bytearray()  # pipes: what came first, from offset 0
        self._keeping = not self.seekable
        self._position = 0  # pipes: offset of the next byte to come
        if self.seekable:
            self.size = file.seek(0, io.SEEK_END)

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only where the input ends."""
        if self.size is not None:
            count = min(count, max(self.size - offset, 0))
        room = np.empty(count, np.uint8)
        return room[: self.read_into(offset, room)].tobytes()

    def read_into(self, offset: int, room: npt.NDArray[np.uint8]) -> int:
        """Fill `room` from `offset`; returns the bytes read, fewer only at the end."""
        if self.size is not None and offset >= self.size:
            return 0
        try:
            if self.seekable:
                self._file.seek(offset)
                return self._fill(room.data)
            return self._read_pipe(offset, room.data)
        except (OSError, ValueError) as error:
            raise PiscopeError(
                f"can't be read: {_reason(error)}", path=self.path, byte=offset
            ) from error

    def stop_keeping(self) -> None:
        """A pipe's later bytes are not to be kept: nobody will read them again."""
        self._keeping = False

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _fill(self, room: memoryview) -> int:
        filled = 0
        while filled < len(room):
            count = self._readinto(room[filled:])
            if not count:
                break
            filled += count
        return filled

    # For objects that are files by their read() only.
    def _read_copy(self, room: memoryview) -> int:
        part = self._file.read(len(room))
        room[: len(part)] = part
        return len(part)

    def _read_pipe(self, offset: int, room: memoryview) -> int:
        if not len(room):
            return 0
        if offset < self._position and offset < len(self._kept):
            part = self._kept[offset : offset + len(room)]
            room[: len(part)] = part
            more = self._read_pipe(offset + len(part), room[len(part) :])
            return len(part) + more
        if offset < self._position:
            raise UsageError(
                "a pipe can be read only once; save the recording to a file",
                path=self.path,
            )
        while self._position < offset:  # bytes that nobody asked for
            gap = memoryview(bytearray(min(offset - self._position, 1 << 20)))
            if not self._take(gap):
                return 0
        return self._take(room)

    def _take(self, room: memoryview) -> int:
        filled = self._fill(room)
        self._position += filled
        if self._keeping:
            self._kept += room[:filled]
            if len(self._kept) > _KEPT_BYTES_MAX:
                raise UsageError(
                    f"no event in the first {_KEPT_BYTES_MAX >> 20} MiB of the pipe;"
                    " save the recording to a file",
                    path=self.path,
                )
        return filled


def open_bytes(path_or_file: str | os.PathLike[str] | BinaryIO) -> PerfBytes:
    """The bytes of a path, or of a file that is already open.

    Raises PiscopeError where the path can't be opened.
    """
    if not isinstance(path_or_file, str | os.PathLike):
        name = getattr(path_or_file, "name", None)
        return PerfBytes(path_or_file, name if isinstance(name, str) else "<stream>")
    path = os.fspath(path_or_file)
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 -- closed by PerfBytes
        return PerfBytes(file, path)
    except (OSError, ValueError) as error:
        raise PiscopeError(f"can't be opened: {_reason(error)}", path=path) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
