"""Decompression of trace.dat v7 sections and chunks, never beyond a stated size.

To be read beside trace-cmd's trace-compress.c (tracecmd_uncompress_block,
tracecmd_load_chunks_info) and trace-compress-{zlib,zstd}.c.

    block:  | u32 compressed size | u32 size | data |
    chunks: | u32 count | block | block | ...
"""

from __future__ import annotations

import functools
import zlib
from typing import Any

from piscope.errors import TraceFormatError, UnsupportedTraceError

__all__ = ("MAGIC", "MAX_CHUNK_BYTES", "MAX_SECTION_BYTES", "decompress", "known")

# The largest section of real files is KALLSYMS (16 MB); of chunks, 10 sub-buffers
# of the largest size that the kernel allows (PAGE_SIZE << 7).
MAX_SECTION_BYTES = 1 << 28
MAX_CHUNK_BYTES = 1 << 26

MAGIC = {"zlib": b"\x78", "zstd": b"\x28\xb5\x2f\xfd"}
"""The first bytes of what each compressor writes."""


def known(compressor: str) -> None:
    """Raises UnsupportedTraceError where data so compressed can't be read."""
    if compressor not in ("none", *MAGIC):
        raise UnsupportedTraceError(
            f"compressed with {compressor!r}; known are none, zlib and zstd"
        )


def decompress(compressor: str, data: bytes, size: int, *, cut: bool = False) -> bytes:
    """The `size` bytes that `data` was made of.

    With `cut`, `data` is only a beginning, and what can be had of it is given: its
    every byte is true, since both formats are read from the front. At most `size`
    bytes are ever produced, whatever the data say.

    Raises TraceFormatError where the data are not what the compressor writes, or
    give another number of bytes.
    """
    if size < 0 or size > MAX_SECTION_BYTES:
        raise TraceFormatError(f"a compressed block claims to hold {size} bytes")
    read = _zstd if compressor == "zstd" else _zlib
    try:
        result = read(data, size, cut)
    except _errors() as error:
        raise TraceFormatError(f"{compressor} data are damaged: {error}") from None
    if len(result) != size and not cut:
        raise TraceFormatError(
            f"{compressor} data hold {len(result)} bytes where {size} were promised"
        )
    return result


def _zlib(data: bytes, size: int, cut: bool) -> bytes:
    stream = zlib.decompressobj()
    # max_length=0 would mean "no limit"; one byte more than promised tells a lie.
    result = stream.decompress(data, size + 1)
    if not cut and not stream.eof and len(result) <= size:
        raise zlib.error("the stream has no end")
    return result[:size] if cut else result


def _zstd(data: bytes, size: int, cut: bool) -> bytes:
    import zstandard

    if not cut:
        # trace-cmd's frames carry no content size. One that does would make the
        # library allocate that much, whatever limit it is given.
        if zstandard.frame_content_size(data) not in (-1, size):
            raise TraceFormatError("a zstd frame states another size than its block")
        result: bytes = _zstd_context().decompress(data, max_output_size=size)
        return result
    stream = _zstd_context().stream_reader(data, read_across_frames=False)
    parts: list[bytes] = []
    left = size
    while left:
        part = stream.read(min(left, 1 << 16))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


@functools.cache
def _zstd_context() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 27)


def _errors() -> tuple[type[BaseException], ...]:
    kinds: list[Any] = [zlib.error, MemoryError]
    try:
        import zstandard

        kinds.append(zstandard.ZstdError)
    except ImportError:
        pass
    return tuple(kinds)
