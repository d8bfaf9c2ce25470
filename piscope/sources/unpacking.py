"""gzip, xz, zstd and bzip2 around a binary trace, undone as it is read."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

__all__ = ("Readable", "unpacked")

_DECODER_MEMORY_BYTES = 256 << 20  # xz -9 asks for 65 MiB, zstd --ultra for 128
_PACKED_BYTES = 1 << 16


class Readable(Protocol):
    """What is asked of a stream of bytes."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; empty at the end."""
        ...


class _Decoder(Protocol):
    """What bz2.BZ2Decompressor and lzma.LZMADecompressor have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gunzip:
    """zlib with that interface."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        got = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # With no more than was asked for, zlib may still hold some.
        self.needs_input = len(got) < max_length
        return got


_DECODERS: dict[bytes, Callable[[], _Decoder]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(memlimit=_DECODER_MEMORY_BYTES),
}


def unpacked(head: bytes, file: BinaryIO) -> Readable | None:
    """What a compressed file holds, by its first bytes; None: it is not compressed.

    `file` is to stand at its beginning. Reading raises OSError where the data are
    damaged and EOFError where they end too early, after all that could be had.
    """
    for magic, decoder in _DECODERS.items():
        if head.startswith(magic):
            return _Decoded(file, decoder)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _Zstd(file)
    return None


class _Decoded:
    """Members of gzip, bzip2 or xz, one after the other."""

    def __init__(self, file: BinaryIO, new: Callable[[], _Decoder]) -> None:
        self._file = file
        self._new = new
        self._decoder = new()

    def read(self, size: int, /) -> bytes:
        while True:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data or self._file.read(_PACKED_BYTES)
                if not data.strip(b"\0"):  # padding behind the last member, or the end
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                data = self._file.read(_PACKED_BYTES)
                if not data:
                    raise EOFError("the compressed data end in the middle")
            try:
                got = self._decoder.decompress(data, size)
            except (zlib.error, lzma.LZMAError) as error:
                raise OSError(f"the compressed data are damaged: {error}") from error
            if got:
                return got


class _Zstd:
    """Frames of zstd, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # few traces come so

        self._error = zstandard.ZstdError
        decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY_BYTES)
        self._stream = decoder.stream_reader(
            file, read_size=_PACKED_BYTES, read_across_frames=True
        )

    def read(self, size: int, /) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except self._error as error:
            raise OSError(f"the compressed data are damaged: {error}") from error
