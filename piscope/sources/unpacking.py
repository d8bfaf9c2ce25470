"""gzip, xz, zstd and bzip2 around a binary trace, undone as it is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import BinaryIO, Protocol

__all__ = ("Readable", "unpacked")

_DECODER_MEMORY_BYTES = 256 << 20  # xz -9 asks for 65 MiB, zstd --ultra for 128
_PACKED_BYTES = 1 << 16


class Readable(Protocol):
    """What is asked of a stream of bytes."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; empty at the end."""
        ...


def unpacked(head: bytes, file: BinaryIO) -> Readable | None:
    """What a compressed file holds, by its first bytes; None: it is not compressed.

    `file` is to stand at its beginning. Reading raises OSError where the data are
    damaged, EOFError where they end too early.
    """
    if head.startswith(b"\x1f\x8b"):
        return _Checked(gzip.GzipFile(fileobj=file), zlib.error)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\x00"):
        return _Checked(_Xz(file), lzma.LZMAError)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY_BYTES)
        stream = decoder.stream_reader(file, read_across_frames=True)
        return _Checked(stream, zstandard.ZstdError)
    return None


class _Checked:
    """A stream whose own kind of error becomes an OSError."""

    def __init__(self, stream: Readable, error: type[Exception]) -> None:
        self._stream = stream
        self._error = error

    def read(self, size: int, /) -> bytes | None:
        try:
            return self._stream.read(size)
        except self._error as error:
            raise OSError(f"the compressed data are damaged: {error}") from error


class _Xz:
    """lzma.LZMAFile with a bound on the memory that a file may ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_DECODER_MEMORY_BYTES)

    def read(self, size: int, /) -> bytes:
        while True:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data or self._file.read(_PACKED_BYTES)
                if not data.strip(b"\0"):  # padding behind the last stream, or the end
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                data = self._file.read(_PACKED_BYTES)
                if not data:
                    raise EOFError("the compressed data end in the middle")
            got = self._decoder.decompress(data, size)
            if got:
                return got
