"""Changed, cut and foreign files: data or an error, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_dat_cases import EVERY, FILES, events, made, tids
from writers.trace_events import BY_NAME

from piscope.errors import PiscopeError, TraceFormatError, UnsupportedTraceError
from piscope.sources.trace_dat import open_trace_dat


def small_files() -> list[bytes]:
    own = [replace(e, name=n) for e, n in zip(events(40), [*BY_NAME] * 7, strict=False)]
    return [
        w.trace_dat(
            w.recording(
                own,
                version=version,
                compressor=compressor,
                shape=PageShape(page_size=512),
                instances={"i": own[:4]},
                missed={(0, 1): 3},
            )
        )
        for version, compressor in FILES
    ]


SMALL = small_files()


def survives(data: bytes) -> None:
    try:
        source = open_trace_dat(data)
        rows = 0
        for chunk in source.chunks(EVERY):
            rows += len(chunk)
            assert (chunk.event < len(source.events)).all()
            for cpu in np.unique(chunk.cpu):
                if len(source.info.buffers) == 1:
                    assert (np.diff(chunk.ts_ns[chunk.cpu == cpu]) >= 0).all()
        assert rows <= sum(source.counts.values())
    except PiscopeError as error:
        assert str(error)


@settings(max_examples=250, deadline=None)
@given(
    which=st.integers(0, len(SMALL) - 1),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6
    ),
    keep=st.none() | st.integers(0, 1 << 20),
)
def test_changed_and_cut_files_give_data_or_an_error(
    which: int, changes: list[tuple[int, int]], keep: int | None
) -> None:
    data = bytearray(SMALL[which])
    for at, value in changes:
        data[at % len(data)] = value
    survives(bytes(data if keep is None else data[: keep % len(data)]))


@settings(max_examples=100, deadline=None)
@given(
    version=st.sampled_from([b"6", b"7"]),
    tail=st.binary(max_size=300),
    packed=st.sampled_from([b"", b"none\0001\0", b"zlib\0001\0", b"zstd\0001\0"]),
)
def test_any_bytes_behind_the_magic_give_data_or_an_error(
    version: bytes, tail: bytes, packed: bytes
) -> None:
    head = b"\x17\x08\x44tracing" + version + b"\0\0\x08\0\x10\0\0"
    survives(head + packed + tail)


@given(st.binary(max_size=200))
def test_any_bytes_give_data_or_an_error(data: bytes) -> None:
    survives(data)


def every_flip(data: bytes, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        yield bytes(changed)


@pytest.mark.parametrize("which", range(len(SMALL)))
def test_a_flipped_bit_costs_little(which: int) -> None:
    whole = 44
    least = []
    for data in every_flip(SMALL[which], 97):
        try:
            source = open_trace_dat(data)
            count = sum(len(c) for c in source.chunks(EVERY))
        except PiscopeError:
            continue
        if count < whole:
            assert source.losses
        least.append(count)
    assert sum(c == whole for c in least) > 0.6 * len(least)


def test_sizes_that_lie_are_not_believed() -> None:
    """A chunk or section that claims gigabytes is refused before they are allocated."""
    data = bytearray(w.trace_dat(made(compressor="zstd")))
    magic = b"\x28\xb5\x2f\xfd"
    at = data.find(magic)
    while at >= 0:
        data[at - 4 : at] = struct.pack("<I", 0xFFFFFFF0)
        at = data.find(magic, at + 1)
    with pytest.raises(PiscopeError):
        tids(open_trace_dat(bytes(data)))
        raise TraceFormatError("readable, but without events")


def test_the_text_of_a_latency_tracer_is_refused_with_advice() -> None:
    for version in (6, 7):
        recording = w.recording([], version=version)
        recording.text = b"# tracer: irqsoff\n"
        with pytest.raises(UnsupportedTraceError, match="trace-cmd report"):
            open_trace_dat(w.trace_dat(recording))


@pytest.mark.parametrize(
    ("data", "expected", "kind"),
    [
        (b"", "is empty", TraceFormatError),
        (b"\x17\x08\x44tr", "byte 0: not a trace.dat file", TraceFormatError),
        (b"hello, world: some text", "byte 0: not a trace.dat", TraceFormatError),
        (b"PERFILE2" + bytes(20), "perf.data", UnsupportedTraceError),
        (b"\x1f\x8b\x08" + bytes(20), "gzip", UnsupportedTraceError),
        (b"\x17\x08\x44tracing9\0" + bytes(9), "version 9", UnsupportedTraceError),
        (b"\x17\x08\x44tracingx\0" + bytes(9), "version number", TraceFormatError),
        (b"\x17\x08\x44tracing6\0\0", "byte 13", TraceFormatError),
    ],
)
def test_what_is_no_trace_dat_is_refused_politely(
    data: bytes, expected: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        open_trace_dat(data)
    assert expected in str(caught.value)


def test_an_unknown_compressor_is_named() -> None:
    data = w.trace_dat(made()).replace(b"none\0", b"lz77\0", 1)
    with pytest.raises(UnsupportedTraceError, match="'lz77'"):
        open_trace_dat(data)


def test_no_file_and_no_pcpu() -> None:
    with pytest.raises(TraceFormatError, match="can't be read"):
        open_trace_dat("/nowhere/trace.dat")
    source = open_trace_dat(w.trace_dat(w.recording([], compressor="zstd")))
    assert tids(source) == {}
    assert source.info.notes == ["no pCPU has any data"]
