"""Which kind of trace a file is, told by its first bytes and never by its name.

17 08 44 "tracing"         trace.dat       | gzip, xz, zstd, bzip2: the same of
PERFILE2, 2ELIFREP         perf.data       | what is inside
directory with `data`      perf.data of `perf record --threads`
anything else without NUL  text, whose reader knows its own kinds
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from piscope.errors import PiscopeError, TraceFormatError
from piscope.sources.raw import Source
from piscope.sources.unpacking import Readable, unpacked

__all__ = ("open_trace",)

_EXPECTED = "expected a trace.dat, a perf.data, or the text of tracefs or perf script"
_TRACE_DAT = b"\x17\x08\x44tracing"
_PERF_DATA = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")
_PERF_PIPE_SIZE = (b"\x10" + bytes(7), bytes(7) + b"\x10")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # a text, although with NULs
_HEAD_BYTES = 512

# A trace that has to be put on the disk first: not more than this, nor than leaves
# half of the free space.
_MAX_SPOOL_BYTES = 64 << 30
_COPY_BYTES = 1 << 20

# (offset, bytes, what such a file is)
_FOREIGN = (
    (0, b"\x7fELF", "an ELF program"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\xd4\xc3\xb2\xa1", "a pcap capture"),
    (0, b"\xa1\xb2\xc3\xd4", "a pcap capture"),
    (0, b"\x4d\x3c\xb2\xa1", "a pcap capture"),
    (0, b"\x0a\x0d\x0d\x0a", "a pcapng capture"),
    (0, b"\x57\x1d\xd1\x75", "the metadata of a CTF trace"),
    (0, b"\x75\xd1\x1d\x57", "the metadata of a CTF trace"),
    (0, b"/* CTF", "the metadata of a CTF trace"),
    (0, b"\xc1\x1f\xfc\xc1", "a stream of a CTF trace"),
    (0, b"\xc1\xfc\x1f\xc1", "a stream of a CTF trace"),
    (0, b"\x04\x22\x4d\x18", "lz4 data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"<!DOCTYPE", "an HTML page"),
    (0, b"<html", "an HTML page"),
    (257, b"ustar", "a tar archive"),
)


def open_trace(path: str | os.PathLike[str]) -> Source:
    """The trace at a path, or on standard input for `-`, whatever its kind.

    A pipe is read as it comes if it holds text or `perf record -o -`; other traces
    are read at many places, and put into a temporary file first, as are those that
    are compressed.

    Raises TraceFormatError where the bytes are of no known kind, and what the reader
    of their kind raises; PiscopeError where they can't be read at all.
    """
    name = os.fspath(path)
    if name == "-":
        return _named(lambda: _open_file(sys.stdin.buffer, None), "<stdin>")
    if Path(name).is_dir():
        return _named(lambda: _open_directory(Path(name)), name)
    try:
        # Opened once only: a named pipe, or the <(...) of a shell, comes once.
        file = cast(BinaryIO, Path(name).open("rb", buffering=0))  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise PiscopeError(_reason(error), path=name) from None
    if not file.seekable():
        return _named(lambda: _open_file(file, None), name)
    with file:
        return _named(lambda: _open_file(file, name), name)


# Errors and the source's own description bear the name that the user gave.
def _named(opener: Callable[[], Source], name: str) -> Source:
    try:
        source = opener()
    except PiscopeError as error:
        error.path = name
        raise
    except (OSError, EOFError) as error:
        raise PiscopeError(_reason(error), path=name) from None
    source.info.path = name
    return source


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"can't be read: {reason}"


def _open_directory(path: Path) -> Source:
    if (path / "metadata").is_file():
        raise TraceFormatError(f"the directory of a CTF trace; {_EXPECTED}")
    if not (path / "data").is_file():
        raise TraceFormatError(f"a directory without a perf.data in it; {_EXPECTED}")
    from piscope.sources.perf_data import open_perf_data

    return open_perf_data(path)


# `path`: the file by its name, where its reader may open it by that.
def _open_file(file: BinaryIO, path: str | None) -> Source:
    head = _read_head(file)
    rewound = _rewound(file, head)
    if not head:
        raise TraceFormatError(f"empty; {_EXPECTED}")
    if unpacked(head, rewound) is not None:
        return _open_packed(rewound, head, path)
    if _is_binary_trace(head):
        if not rewound.seekable() and not _is_perf_pipe(head):
            rewound, _ = _spooled(rewound)
        return _open_binary(rewound, head, path)
    _refuse_foreign(head, "")
    return _open_text(rewound, path)


# A text's reader undoes the compression itself; a binary trace has to be a file.
def _open_packed(file: BinaryIO, head: bytes, path: str | None) -> Source:
    if not file.seekable():
        file, _ = _spooled(file)
    stream = unpacked(head, file)
    inner = b"" if stream is None else _read_head(stream)
    file.seek(0)
    if not _is_binary_trace(inner):
        _refuse_foreign(inner, "compressed data of ")
        return _open_text(file, path)
    stream = unpacked(head, file)
    assert stream is not None
    whole, problem = _spooled(stream)
    source = _open_binary(whole, inner, None)
    source.info.format += " (compressed)"
    if problem is not None:
        source.info.notes.append(f"only its beginning could be read: {problem}")
    return source


def _is_binary_trace(head: bytes) -> bool:
    return head.startswith((_TRACE_DAT, *_PERF_DATA))


def _is_perf_pipe(head: bytes) -> bool:
    return head.startswith(_PERF_DATA) and head[8:16] in _PERF_PIPE_SIZE


def _refuse_foreign(head: bytes, inside: str) -> None:
    for offset, magic, what in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise TraceFormatError(f"looks like {inside}{what}; {_EXPECTED}", byte=0)
    nul = head.find(b"\0")
    if nul >= 0 and not head.startswith(_UTF16):
        raise TraceFormatError(
            f"{inside or ''}binary data that begin with {head[:8].hex(' ')};"
            f" {_EXPECTED}",
            byte=0,
        )


def _open_binary(file: BinaryIO, head: bytes, path: str | None) -> Source:
    if head.startswith(_TRACE_DAT):
        from piscope.sources.trace_dat import open_trace_dat

        return open_trace_dat(file if path is None else path)
    from piscope.sources.perf_data import open_perf_data

    return open_perf_data(file if path is None else path)


def _open_text(file: BinaryIO, path: str | None) -> Source:
    from piscope.sources.ftrace_text import open_text

    return open_text(file if path is None else path)


def _read_head(file: Readable) -> bytes:
    head = b""
    while len(head) < _HEAD_BYTES:
        part = file.read(_HEAD_BYTES - len(head))
        if not part:
            break
        head += part
    return head


class _Rejoined(io.RawIOBase):
    """A pipe whose first bytes have been looked at already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any, /) -> int:
        view = memoryview(room)
        part = self._head[: len(view)]
        self._head = self._head[len(part) :]
        if not part:
            part = self._rest.read(len(view)) or b""
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._rest.close()
        super().close()


def _rewound(file: BinaryIO, head: bytes) -> BinaryIO:
    if file.seekable():
        file.seek(0)
        return file
    return cast(BinaryIO, _Rejoined(head, file))


# A temporary file with all that comes, gone when it is closed, and what made it end
# too early. A stream that gives nothing at all is an error of its own.
def _spooled(stream: Readable) -> tuple[BinaryIO, Exception | None]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    limit = min(_MAX_SPOOL_BYTES, free // 2)
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="piscope-"))  # noqa: SIM115
    total = 0
    problem: Exception | None = None
    while True:
        try:
            part = stream.read(_COPY_BYTES)
        except (OSError, EOFError) as error:
            problem = error
            break
        if not part:
            break
        total += len(part)
        if total > limit:
            file.close()
            raise PiscopeError(
                f"more than {limit >> 20} MiB for the temporary file that such a trace"
                " needs; decompress it yourself, or set TMPDIR"
            )
        file.write(part)
    if problem is not None and total == 0:
        file.close()
        raise problem
    file.seek(0)
    return file, problem
