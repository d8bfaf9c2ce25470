"""Bounds-checked reading of bytes, from a file or from memory.

Every length that a trace states is compared with what is really there before
anything of that length is allocated; what is missing raises TraceFormatError with
the byte and what was expected.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from piscope.errors import TraceFormatError, UnsupportedTraceError
from piscope.sources.event_format import ByteOrder

__all__ = ("ByteFile", "Cursor")

_WINDOW_BYTES = 1 << 18


class ByteFile:
    """A file of known size that is read at places, in any order.

    `path` is for messages. Reads that reach beyond the end are short, and those of
    a file that shrinks or fails while it is read end there as well.
    """

    def __init__(self, source: str | Path | BinaryIO | bytes) -> None:
        self.path = "<memory>"
        self._owned = not hasattr(source, "read")
        if isinstance(source, bytes):
            self._file: BinaryIO = io.BytesIO(source)
        elif isinstance(source, str | Path):
            self.path = str(source)
            try:
                # Unbuffered: the readers have buffers of the size that suits them.
                opened = Path(source).open("rb", buffering=0)  # noqa: SIM115
                self._file = cast(BinaryIO, opened)
            except OSError as error:
                reason = error.strerror or str(error)
                raise TraceFormatError(
                    f"can't be read: {reason}", path=source
                ) from None
        else:
            self._file = source
            self.path = str(getattr(source, "name", "<stream>"))
        try:
            self.size = self._file.seek(0, os.SEEK_END)
        except (OSError, ValueError):
            self.close()
            raise UnsupportedTraceError(
                "trace.dat can't be read from a pipe: it is read at many places; "
                "save it to a file first",
                path=self.path,
            ) from None

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the file."""
        size = max(0, min(size, self.size - offset))
        buffer = bytearray(size)
        count = self.read_into(offset, memoryview(buffer))
        return bytes(buffer[:count])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; the number of bytes that were there."""
        total = 0
        if offset < 0 or offset >= self.size:
            return 0
        try:
            self._file.seek(offset)
            while total < len(buffer):
                # BinaryIO does not declare readinto; all binary files have it.
                count = self._file.readinto(buffer[total:])  # type: ignore[attr-defined]
                if not count:
                    break
                total += count
        except OSError:
            pass
        return total

    def close(self) -> None:
        """Close the file, where it was opened here."""
        if self._owned:
            self._file.close()


class Cursor:
    """Sequential reading of [at, end) of a file, in the file's byte order.

    `what` names the part in messages. Offsets are those in `file`; where that is a
    decompressed section, `base` is the section's byte in the trace and is the
    place that messages give.
    """

    def __init__(
        self,
        file: ByteFile,
        order: ByteOrder,
        *,
        at: int = 0,
        end: int | None = None,
        what: str = "trace.dat",
        base: int | None = None,
    ) -> None:
        self._file = file
        self.order: ByteOrder = order
        self.at = at
        self.end = file.size if end is None else min(end, file.size)
        self.what = what
        self._base = base
        self._window = b""
        self._window_at = 0

    @property
    def left(self) -> int:
        """Bytes up to the end."""
        return max(0, self.end - self.at)

    def error(self, expected: str) -> TraceFormatError:
        """The error that `expected` is not at the cursor."""
        place = self.at if self._base is None else self._base
        return TraceFormatError(f"{self.what}: expected {expected}", byte=place)

    def take(self, size: int, expected: str) -> bytes:
        """The next `size` bytes. Raises TraceFormatError where fewer are left."""
        if size > self.left:
            raise self.error(f"{expected} ({size} bytes), but {self.left} are left")
        data = self._peek(size)
        if len(data) < size:
            raise self.error(f"{expected} ({size} bytes), but the file ends")
        self.at += size
        return data

    def skip(self, size: int, expected: str) -> None:
        """Pass over the next `size` bytes. Raises as `take` does."""
        if size > self.left:
            raise self.error(f"{expected} ({size} bytes), but {self.left} are left")
        self.at += size

    def number(self, size: int, expected: str) -> int:
        """An unsigned integer of `size` bytes. Raises as `take` does."""
        return int.from_bytes(self.take(size, expected), self.order)

    def string(self, limit: int, expected: str) -> str:
        """Text up to a NUL, which is consumed.

        Raises TraceFormatError where none of the next `limit` bytes is one.
        """
        data = self._peek(min(limit, self.left))
        end = data.find(b"\0")
        if end < 0:
            raise self.error(f"{expected}: text that ends in a NUL")
        self.at += end + 1
        return data[:end].decode("utf-8", "replace")

    # Up to `size` bytes from here, through a window so that many small reads are
    # few reads of the file.
    def _peek(self, size: int) -> bytes:
        start = self.at - self._window_at
        if start < 0 or start + size > len(self._window):
            if size > _WINDOW_BYTES:
                return self._file.read_at(self.at, size)
            self._window = self._file.read_at(
                self.at, min(_WINDOW_BYTES, self.end - self.at)
            )
            self._window_at, start = self.at, 0
        return self._window[start : start + size]
