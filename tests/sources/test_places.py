"""Where each event is in its file, as `piscope explain` tells it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from writers import trace_dat as w
from writers.trace_dat_cases import FILES, made

from piscope.commands.selection import kept
from piscope.events.merge import merged
from piscope.sources.detect import open_trace
from piscope.sources.raw import RawChunk, Wanted
from piscope.sources.trace_dat import open_trace_dat

EVERY = Wanted({"*": None}, places=True)
PERF_RECORD_SAMPLE = 9


def _whole(chunks: list[RawChunk]) -> list[tuple[int, int, int]]:
    return [
        (int(c.place[i]), int(c.tid[i]), int(c.cpu[i]))
        for c in chunks
        if c.place is not None
        for i in range(len(c))
    ]


@pytest.mark.parametrize(("version", "compressor"), FILES)
def test_trace_dat_place_is_the_record_or_its_chunk(
    version: int, compressor: str
) -> None:
    data = w.trace_dat(made(version=version, compressor=compressor))
    source = open_trace_dat(data)
    found = _whole(list(source.chunks(EVERY)))
    assert len(found) == 120
    assert source.info.places == ("record" if compressor == "none" else "chunk")
    for place, tid, _ in found:
        if compressor == "none":
            # common_pid of the record is at its byte 4
            assert struct.unpack_from("<i", data, place + 4) == (tid,)
        else:
            packed, size = struct.unpack_from("<II", data, place)
            assert 0 < packed < len(data) - place
            assert size % 4096 == 0


def test_perf_place_is_the_sample(samples: Path) -> None:
    path = samples / "vmx-6.17.13-ipiv-tools.p_min.perf.data"
    data = path.read_bytes()
    source = open_trace(str(path))
    chunks = list(source.chunks(EVERY))
    source.close()
    places = np.concatenate([c.place for c in chunks if c.place is not None])
    assert len(places) == sum(map(len, chunks)) == len(set(places.tolist()))
    for place in places.tolist():
        assert struct.unpack_from("<I", data, place) == (PERF_RECORD_SAMPLE,)


def test_text_place_is_the_line(samples: Path) -> None:
    path = samples / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    source = open_trace(str(path))
    chunk = next(iter(source.chunks(EVERY)))
    assert source.info.places == "line"
    assert chunk.place is None
    for i in range(0, len(chunk), 97):
        name = source.events[int(chunk.event[i])][1]
        assert f" {name}: " in lines[int(chunk.seq[i]) - 1]
    source.close()


def test_places_follow_their_events_through_order_and_selection() -> None:
    data = w.trace_dat(made(version=6))
    source = open_trace_dat(data)
    for chunk in merged(source, EVERY):
        assert chunk.place is not None
        assert (np.diff(chunk.ts_ns) >= 0).all()
        part = kept(chunk, chunk.cpu == 1)
        assert part.place is not None
        for whole in (chunk, part):
            assert whole.place is not None
            for place, tid in zip(
                whole.place.tolist(), whole.tid.tolist(), strict=True
            ):
                assert struct.unpack_from("<i", data, place + 4) == (tid,)


def test_places_cost_nothing_unless_asked_for() -> None:
    source = open_trace_dat(w.trace_dat(made(version=7)))
    assert all(c.place is None for c in source.chunks(Wanted({"*": None})))
