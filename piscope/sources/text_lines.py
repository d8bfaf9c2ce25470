"""A text capture's bytes: unwrapped by content, cut into blocks of whole lines.

Texts arrive gzipped, xz-ed or zstd-ed, through mail (CRLF, no-break spaces) and
through pipes. All of that ends here; what comes out are blocks of lines that end
in one newline each, of bounded size whatever the input holds.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from piscope.errors import TraceFormatError, UnsupportedTraceError, UsageError
from piscope.sources.raw import Loss
from piscope.sources.unpacking import Readable, unpacked

__all__ = ("BLOCK_BYTES", "MAX_LINE_BYTES", "Block", "TextBytes")

BLOCK_BYTES = 4 << 20
"""Bytes read at a time: about 32,000 lines of a tracefs text."""

MAX_LINE_BYTES = 64 << 10
"""A longer line is no trace line; it is cut to one byte more than this."""

_PEEK_BYTES = 6
_WRAPPERS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# U+00A0 in UTF-8, or alone as in latin-1 (a byte after non-ASCII is part of it).
_NBSP = re.compile(rb"\xc2\xa0|(?<![\x80-\xff])\xa0(?![\x80-\xff])")


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a text.

    text        the lines; every line ends in LF, also a last one that had none
    first_line  1-based number of the first
    unended     the last line is the text's last and had no newline of its own
    """

    text: bytes
    first_line: int
    unended: bool = False


class _Peeked:
    """A stream of which the first bytes were looked at already."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # nobody may ask for all of it
            size = BLOCK_BYTES
        if self._first:
            head, self._first = self._first[:size], self._first[size:]
            return head
        return self._rest.read(size) or b""


class TextBytes:
    """One text capture as blocks of lines.

    name       for messages; None for a nameless stream
    wrapper    "gzip", "xz", "zstd", "bzip2", or None: plain text
    losses     after a pass: where the packed stream broke off

    `blocks` opens a path anew each time; a stream can be read once.
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._stream: BinaryIO | None = None
        self._opened: io.BufferedReader | None = None
        self._consumed = False
        self.losses: list[Loss] = []
        self.wrapper: str | None = None
        self.size_bytes: int | None = None
        if isinstance(source, str | Path):
            self.path: Path | None = Path(source)
            self.name: str | None = str(source)
        else:
            self.path, self._stream = None, source
            name = getattr(source, "name", None)
            self.name = name if isinstance(name, str) else None

    @property
    def rereadable(self) -> bool:
        """Whether `blocks` can make another pass."""
        return self.path is not None

    def close(self) -> None:
        """Close what this object opened; a caller's stream stays the caller's."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def blocks(self) -> Iterator[Block]:
        """The text from its beginning, block by block.

        Raises UsageError when the file can't be opened, TraceFormatError when even
        its first bytes can't be unpacked, UnsupportedTraceError for UTF-16.
        """
        self.losses.clear()
        unpacked = self._unpacked()
        carry, skipping, line, more = b"", False, 1, True
        while more:
            piece, more, error = _fill(unpacked, BLOCK_BYTES)
            if error is not None:
                self._broken_off(error, line, nothing_read=not carry + piece)
            if skipping:  # the rest of a line that is too long already
                piece = piece[end:] if (end := piece.find(b"\n")) >= 0 else b""
                skipping = not piece
            end = piece.rfind(b"\n") + 1
            if end:
                text = _cleaned(carry + piece[:end])
                yield Block(text, line)
                line += text.count(b"\n")
                carry = piece[end:]
            else:
                carry += piece
            if len(carry) > MAX_LINE_BYTES:
                carry, skipping = carry[: MAX_LINE_BYTES + 1], True
        if carry:
            yield Block(_cleaned(carry + b"\n"), line, unended=True)

    def _broken_off(self, error: Exception, line: int, nothing_read: bool) -> None:
        where = self.wrapper or "plain"
        if line == 1 and nothing_read:
            raise TraceFormatError(
                f"can't be read as text ({where}): {error}", path=self.name
            ) from error
        self.losses.append(
            Loss(
                "truncated" if isinstance(error, EOFError) else "damaged",
                detail=f"the {where} stream broke off after line {line}: {error}",
            )
        )

    def _unpacked(self) -> Readable:
        packed: Readable
        if self.path is not None:
            self.close()
            try:
                self._opened = self.path.open("rb")
                self.size_bytes = self.path.stat().st_size or None  # 0: a pipe, tracefs
            except OSError as error:
                reason = error.strerror or "?"
                raise UsageError(f"can't be read: {reason}", path=self.path) from error
            packed = self._opened
        else:
            if self._consumed or self._stream is None:
                raise UsageError("a stream can be read only once", path=self.name)
            self._consumed, packed = True, self._stream
        first = _first_bytes(packed, _PEEK_BYTES, self.name)
        if first.startswith(_UTF16):
            raise UnsupportedTraceError(
                "text in UTF-16; convert it to UTF-8 first", path=self.name, byte=0
            )
        if first.startswith(b"\xef\xbb\xbf"):  # a byte order mark says nothing
            first = first[3:]
        peeked = _Peeked(first, packed)
        self.wrapper = next(
            (name for magic, name in _WRAPPERS.items() if first.startswith(magic)), None
        )
        return unpacked(first, cast(BinaryIO, peeked)) or peeked


def _fill(stream: Readable, size: int) -> tuple[bytes, bool, Exception | None]:
    """Up to `size` bytes, whether more may follow, and what went wrong after them."""
    pieces: list[bytes] = []
    while size > 0:
        try:
            piece = stream.read(size)
        except (OSError, EOFError, ValueError) as error:
            return b"".join(pieces), False, error
        if not piece:
            return b"".join(pieces), False, None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces), True, None


def _first_bytes(stream: Readable, size: int, name: str | None) -> bytes:
    first = b""
    while len(first) < size:  # a pipe may give less than was asked for
        try:
            piece = stream.read(size - len(first))
        except OSError as error:
            reason = error.strerror or "?"
            raise UsageError(f"can't be read: {reason}", path=name) from error
        if not piece:
            break
        first += piece
    return first


def _cleaned(text: bytes) -> bytes:
    """Line ends and blanks as the kernel wrote them."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if b"\xa0" in text:
        text = _NBSP.sub(b" ", text)
    return text
