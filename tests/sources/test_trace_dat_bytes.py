"""The parts below trace.dat: bounded reading, decompression, and clocks."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from writers import trace_dat as w

from piscope.errors import TraceFormatError, UnsupportedTraceError
from piscope.sources.compression import MAX_SECTION_BYTES, decompress
from piscope.sources.cursor import ByteFile, Cursor
from piscope.sources.trace_dat_clock import (
    Clock,
    ShiftSample,
    TimeShift,
    Tsc2Nsec,
    ts_unit_of,
)

PACKED = [("zlib", zlib.compress), ("zstd", lambda d: w.compress("zstd", d))]
TEXT = bytes(range(256)) * 50


def test_a_cursor_never_reads_beyond_its_end() -> None:
    cursor = Cursor(ByteFile(b"\x01\x02\x03\x04name\0rest"), "big", end=9, what="it")
    assert cursor.number(2, "a number") == 0x0102
    cursor.skip(2, "two bytes")
    assert cursor.string(99, "a name") == "name"
    assert cursor.left == 0
    with pytest.raises(TraceFormatError, match="byte 9: it: expected a word"):
        cursor.number(4, "a word")
    with pytest.raises(TraceFormatError, match="1 bytes"):
        cursor.skip(1, "a byte")


def test_text_without_its_nul_is_refused() -> None:
    cursor = Cursor(ByteFile(b"x" * 100), "little")
    with pytest.raises(TraceFormatError, match="NUL"):
        cursor.string(50, "a name")


def test_reads_larger_than_the_window_and_backwards() -> None:
    data = np.arange(1 << 18, dtype="<u4").tobytes()
    cursor = Cursor(ByteFile(data), "little")
    assert cursor.take(1 << 20, "all") == data
    for word in (5, 200_000, 3, 262_143):
        cursor.at = 4 * word
        assert cursor.number(4, "a word") == word


def test_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def seek(self, offset: int, whence: int = 0) -> int:
            raise OSError("illegal seek")

    with pytest.raises(UnsupportedTraceError, match="pipe"):
        ByteFile(Pipe())  # type: ignore[arg-type]
    with pytest.raises(TraceFormatError, match="can't be read"):
        ByteFile(tmp_path / "none")
    with pytest.raises(TraceFormatError, match="can't be read"):
        ByteFile(tmp_path)


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_what_was_compressed_comes_back(name: str, pack: w.Compressor) -> None:
    packed = pack(TEXT)  # type: ignore[operator]
    assert decompress(name, packed, len(TEXT)) == TEXT
    for size in (len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(TraceFormatError):
            decompress(name, packed, size)
    with pytest.raises(TraceFormatError):
        decompress(name, packed[:-3], len(TEXT))
    with pytest.raises(TraceFormatError, match="claims"):
        decompress(name, packed, MAX_SECTION_BYTES + 1)


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_a_cut_stream_gives_only_true_bytes(data: bytes, keep: int) -> None:
    for name, pack in PACKED:
        packed = pack(data)[:keep]
        assert data.startswith(decompress(name, packed, len(data), cut=True))


@given(st.binary(max_size=200), st.integers(0, 5000), st.booleans())
def test_any_bytes_decompress_or_are_refused(
    data: bytes, size: int, behind_magic: bool
) -> None:
    for name, magic in (("zlib", b"\x78\x9c"), ("zstd", b"\x28\xb5\x2f\xfd")):
        for cut in (False, True):
            try:
                result = decompress(
                    name, magic + data if behind_magic else data, size, cut=cut
                )
            except TraceFormatError:
                continue
            assert len(result) <= size


def test_a_bomb_does_not_go_off() -> None:
    zeros = bytes(1 << 24)
    frame = zstandard.ZstdCompressor(write_content_size=True).compress(zeros)
    bombs = [("zlib", zlib.compress(zeros)), ("zstd", frame)]
    bombs.append(("zstd", w.compress("zstd", zeros)))
    for name, bomb in bombs:
        tracemalloc.start()
        with pytest.raises(TraceFormatError):
            decompress(name, bomb, 1000)
        assert len(decompress(name, bomb, 1000, cut=True)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


U64 = st.integers(0, (1 << 64) - 1)
WORD = (1 << 64) - 1


def converted(clock: Clock, ticks: list[int], cpu: int = 0) -> list[int]:
    out = clock.convert(np.array(ticks, np.uint64), cpu)
    assert out.dtype == np.int64
    return [int(t) & WORD for t in out]


@given(
    st.lists(U64, min_size=1, max_size=8), st.integers(1, 1 << 32), st.integers(0, 99)
)
def test_tsc2nsec_is_the_whole_product(ticks: list[int], mult: int, shift: int) -> None:
    clock = Clock(tsc=Tsc2Nsec(mult % (1 << 32), shift))
    expected = [(t * (mult % (1 << 32)) >> shift) & WORD for t in ticks]
    assert converted(clock, ticks) == expected


samples = st.lists(
    st.tuples(
        st.integers(0, 1 << 40),
        st.integers(-(1 << 62), 1 << 62),
        U64,
        st.integers(0, 64),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda s: s[0],
)


# timestamp_host_sync() of trace-cmd with integers of any size.
def shifted(ticks: int, own: list[ShiftSample], interpolate: bool) -> int:
    if len(own) == 1:
        return (ticks + own[0].offset) & WORD
    at = max((i for i, s in enumerate(own) if s.time <= ticks), default=0)
    low = own[min(at, len(own) - 2)]
    high = own[min(at, len(own) - 2) + 1]
    offset = low.offset
    if interpolate:
        span = high.time - low.time
        product = (ticks - low.time) * (high.offset - low.offset) + span // 2
        offset += product // span if product >= 0 else -(-product // span)
    return ((ticks * low.scaling >> low.fraction) + offset) & WORD


@given(
    ticks=st.lists(st.integers(0, 1 << 41), min_size=1, max_size=8),
    drawn=samples,
    interpolate=st.booleans(),
)
def test_time_shift_chooses_the_sample_of_its_time(
    ticks: list[int], drawn: list[tuple[int, int, int, int]], interpolate: bool
) -> None:
    own = [ShiftSample(*sample) for sample in sorted(drawn)]
    clock = Clock(shift=TimeShift(interpolate, ((), tuple(own))))
    expected = [shifted(t, own, interpolate) for t in ticks]
    assert converted(clock, ticks, cpu=1) == expected
    # A pCPU without samples, and one beyond those that the option has.
    assert converted(clock, ticks, cpu=0) == ticks
    assert converted(clock, ticks, cpu=2) == ticks


def test_what_clocks_count() -> None:
    assert ts_unit_of(None) == ts_unit_of("mono") == ts_unit_of("tsc2nsec") == "ns"
    assert ts_unit_of("x86-tsc") == "cycles"
    assert ts_unit_of("uptime") == "counter"
