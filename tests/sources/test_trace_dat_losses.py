"""What a trace.dat lacks, and what can still be read of one that is damaged or cut."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_events import BY_NAME, POINTS, Event

from piscope.errors import PiscopeError, TraceFormatError
from piscope.sources import loss_log
from piscope.sources.raw import Loss, Wanted
from piscope.sources.trace_dat import TraceDatSource, open_trace_dat

EVERY = Wanted({"*": None})
ROOT = Path(__file__).resolve().parents[2]
PER_PAGE = 5


def events(count: int = 120, cpus: int = 2) -> list[Event]:
    """Events 100 ns apart in each pCPU; tid tells which event it is."""
    return [
        Event("kvm_exit", 10**6 + 100 * (i // cpus), i % cpus, i, {"exit_reason": i})
        for i in range(count)
    ]


def made(own: Sequence[Event] | None = None, **variant: Any) -> w.Recording:
    return w.recording(own or events(), per_page=PER_PAGE, **variant)


def tids(source: TraceDatSource) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for chunk in source.chunks(EVERY):
        for cpu, tid in zip(chunk.cpu.tolist(), chunk.tid.tolist(), strict=True):
            out.setdefault(cpu, []).append(tid)
    return out


def causes(source: TraceDatSource) -> Counter[str]:
    return Counter(loss.cause for loss in source.losses)


ALL = {cpu: list(range(cpu, 120, 2)) for cpu in (0, 1)}
FILES = [(6, "none"), (7, "none"), (7, "zlib"), (7, "zstd")]


# --- what the recorder knew ---


@pytest.mark.parametrize("shape", [PageShape(), PageShape("big", 4)])
def test_flags_say_where_events_were_lost_and_how_many(shape: PageShape) -> None:
    source = open_trace_dat(
        w.trace_dat(made(shape=shape, missed={(0, 0): None, (1, 2): 99}))
    )
    assert tids(source) == ALL
    first, second = source.losses
    assert replace(first, detail="") == Loss("missed-events", 0, None, 10**6)
    # pCPU 1's third sub-buffer begins with its event number 10.
    assert replace(second, detail="") == Loss(
        "missed-events", 1, 10**6 + 900, 10**6 + 1000, 99
    )
    assert second.detail.startswith("lost before the sub-buffer at byte ")


def test_the_recorders_counts_are_compared_with_the_file() -> None:
    stats = {0: {"read events": 50, "entries": 17}, 1: {"overrun": 7}}
    source = open_trace_dat(w.trace_dat(made(stats=stats)))
    tids(source)
    assert source.losses == [
        Loss(
            "cpustat-mismatch",
            0,
            count=7,
            detail="the recorder counted 67 events, the file holds 60",
        ),
        Loss(
            "overwritten",
            1,
            end_ns=10**6,
            count=7,
            detail="the buffer wrapped: 7 events overrun",
        ),
    ]


def test_an_overrun_that_flags_have_told_is_not_told_again() -> None:
    stats = {0: {"overrun": 30, "commit overrun": 2, "dropped events": 4}}
    source = open_trace_dat(w.trace_dat(made(stats=stats, missed={(0, 3): 20})))
    tids(source)
    rows = [(r.cause, r.count, r.start_ns, r.end_ns) for r in source.losses]
    assert rows == [
        ("missed-events", 20, 10**6 + 1400, 10**6 + 1500),
        ("overwritten", 10, None, None),
        ("missed-events", 2, None, None),
        ("missed-events", 4, None, None),
    ]


def test_the_counts_of_an_instance_are_those_of_its_own_pcpus() -> None:
    recording = made(instances={"one": events(20)})
    # The instance's stats come last; its pCPU 1 is told to have had 3 more.
    number, text = recording.options[-1]
    text = text.replace(b"read events: 10", b"read events: 13")
    recording.options = [*recording.options[:-1], (number, text)]
    source = open_trace_dat(w.trace_dat(recording))
    tids(source)
    assert [(r.cause, r.cpu, r.count) for r in source.losses] == [
        ("cpustat-mismatch", 1, 3)
    ]
    assert "'one'" in source.losses[0].detail


def test_a_pcpu_without_data_of_which_the_recorder_counted_events() -> None:
    own = [e for e in events() if e.cpu == 0]
    recording = made(own, cpu_count=2)
    text = b"CPU: 1\nentries: 4\noverrun: 0\nread events: 5\n\0"
    recording.options = [*recording.options, (w.CPUSTAT, text)]
    source = open_trace_dat(w.trace_dat(recording))
    tids(source)
    assert [(r.cause, r.cpu, r.count) for r in source.losses] == [
        ("cpustat-mismatch", 1, 9)
    ]


def test_pcpus_that_were_not_asked_for_are_not_missed() -> None:
    source = open_trace_dat(w.trace_dat(made(stats={0: {"read events": 99}})))
    list(source.chunks(Wanted({"*": None}, cpus=frozenset({1}))))
    assert source.losses == []


def test_events_without_format_are_counted_by_id() -> None:
    known = [p for p in POINTS if p.name != "kvm_entry"]
    own = [Event("kvm_entry", 5, 0, 1), *events(10)]
    source = open_trace_dat(w.trace_dat(made(own, described=known)))
    assert sum(map(len, tids(source).values())) == 10
    assert source.counts == {"kvm:kvm_exit": 10}
    assert source.losses == [
        Loss("unknown-event", count=1, detail="event id 1600 has no format")
    ]


def test_a_format_that_cannot_be_parsed_leaves_its_events_without_fields() -> None:
    recording = made()
    recording.systems = [
        ("kvm", [b"name: kvm_exit\nID: 1601\nformat:\n\tno field here\n"])
    ]
    source = open_trace_dat(w.trace_dat(recording))
    assert tids(source) == ALL
    assert [loss.cause for loss in source.losses] == ["damaged"]
    assert "kvm:kvm_exit" in source.losses[0].detail


def test_losses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_log, "MAX_ROWS", 3)
    missed = {(0, page): 2 for page in range(1, 9)}
    source = open_trace_dat(w.trace_dat(made(missed=missed)))
    tids(source)
    assert len(source.losses) == 4
    rest = source.losses[-1]
    assert (rest.count, rest.detail) == (10, "5 more losses of this kind")
    assert (rest.start_ns, rest.end_ns) == (10**6 + 1900, 10**6 + 4000)


# --- damage ---


# The places of all sub-buffers in an uncompressed file, by their time stamps.
def pages_in(data: bytes, cpu: int) -> list[int]:
    found = []
    for at in range(0, len(data) - 4095, 4096):
        ts, commit = struct.unpack_from("<QQ", data, at)
        if 10**6 <= ts < 2 * 10**6 and 0 < commit < 4080:
            tid = struct.unpack_from("<i", data, at + 16 + 4 + 4)[0]
            if tid % 2 == cpu:
                found.append(at)
    return found


def without(lost: Sequence[int]) -> list[int]:
    return [tid for tid in ALL[0] if tid not in lost]


def test_a_sub_buffer_that_says_too_much_is_skipped_and_named() -> None:
    data = bytearray(w.trace_dat(made(version=6)))
    at = pages_in(bytes(data), 0)[3]
    data[at + 8 : at + 12] = struct.pack("<I", 1 << 20)
    source = open_trace_dat(bytes(data))
    lost = ALL[0][15:20]
    assert tids(source) == {0: without(lost), 1: ALL[1]}
    first = source.losses[0]
    assert (first.cause, first.cpu) == ("damaged", 0)
    assert (first.start_ns, first.end_ns) == (10**6 + 1400, 10**6 + 2000)
    assert f"byte {at} " in first.detail
    # The recorder's counts tell how many they were.
    assert [(r.cause, r.count) for r in source.losses[1:]] == [("cpustat-mismatch", 5)]


def test_what_comes_before_a_broken_entry_is_kept() -> None:
    data = bytearray(w.trace_dat(made(version=6)))
    at = pages_in(bytes(data), 0)[3]
    # The third entry: type_len 0, and a length that no sub-buffer has.
    entry = at + 16 + 2 * 60
    data[entry : entry + 8] = struct.pack("<II", 0, 1 << 30)
    source = open_trace_dat(bytes(data))
    assert tids(source)[0] == without(ALL[0][17:20])
    assert source.losses[0].cause == "damaged"
    assert f"from its byte {entry - at} on" in source.losses[0].detail


def test_an_impossible_stamp_takes_only_its_own_sub_buffer_along() -> None:
    for bit in (40, 50, 63):
        data = bytearray(w.trace_dat(made(version=6)))
        at = pages_in(bytes(data), 0)[3]
        ts = struct.unpack_from("<Q", data, at)[0] ^ 1 << bit
        data[at : at + 8] = struct.pack("<Q", ts)
        source = open_trace_dat(bytes(data))
        assert tids(source) == {0: without(ALL[0][15:20]), 1: ALL[1]}
        assert [(r.cause, r.cpu, r.count) for r in source.losses] == [("damaged", 0, 5)]


def test_an_impossible_delta_takes_the_rest_of_its_sub_buffer_along() -> None:
    shape = PageShape(stamps="extend")
    data = bytearray(w.trace_dat(made(version=6, shape=shape)))
    at = pages_at(bytes(data))[3]
    entry = at + 16 + 2 * 68
    data[entry + 4 : entry + 8] = struct.pack("<I", 1 << 31)
    source = open_trace_dat(bytes(data))
    assert tids(source)[0] == without(ALL[0][17:20])
    assert [(r.cause, r.count) for r in source.losses] == [("damaged", 3)]


def pages_at(data: bytes) -> list[int]:
    """Sub-buffers of any content, of the first pCPU first."""
    return [
        at
        for at in range(0, len(data) - 4095, 4096)
        if 10**6 <= struct.unpack_from("<Q", data, at)[0] < 2 * 10**6
    ]


@pytest.mark.parametrize("compressor", ["zlib", "zstd"])
def test_a_damaged_chunk_is_skipped_with_the_sub_buffers_it_is_part_of(
    compressor: w.Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(w, "PAGES_IN_CHUNK", 2)
    recording = made(compressor=compressor)
    data = bytearray(w.trace_dat(recording))
    chunk = chunks_of(bytes(data), recording)[2]
    # zstd frames of trace-cmd have no checksum: only damage to their structure shows.
    data[chunk + 8 + (6 if compressor == "zstd" else 12)] ^= 0xFF
    source = open_trace_dat(bytes(data))
    assert tids(source) == {0: without(ALL[0][20:30]), 1: ALL[1]}
    damage = source.losses[0]
    assert f"chunk at byte {chunk}" in damage.detail
    assert (damage.start_ns, damage.end_ns) == (10**6 + 1900, 10**6 + 3000)
    assert causes(source) == {"damaged": 1, "cpustat-mismatch": 1}


@pytest.mark.parametrize("compressor", ["zlib", "zstd"])
def test_after_a_damaged_chunk_header_the_next_chunk_is_found(
    compressor: w.Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(w, "PAGES_IN_CHUNK", 2)
    recording = made(compressor=compressor)
    data = bytearray(w.trace_dat(recording))
    chunk = chunks_of(bytes(data), recording)[2]
    data[chunk : chunk + 8] = b"\xff" * 8
    source = open_trace_dat(bytes(data))
    assert tids(source) == {0: without(ALL[0][20:30]), 1: ALL[1]}
    assert "is no header of a chunk; the next is at byte" in source.losses[0].detail


def test_sub_buffers_that_straddle_chunks_are_skipped_with_either() -> None:
    shape = PageShape(page_size=16384)
    recording = made(shape=shape, compressor="zlib")
    recording.page_size = 4096  # ten of these a chunk: 2.5 sub-buffers
    data = bytearray(w.trace_dat(recording))
    chunk = chunks_of(bytes(data), recording)[1]
    data[chunk + 8 + 12] ^= 0xFF
    source = open_trace_dat(bytes(data))
    # Chunk 1 holds the second half of sub-buffer 2, and 3 and 4 whole.
    assert tids(source)[0] == without(ALL[0][10:25])


def chunks_of(data: bytes, recording: w.Recording) -> list[int]:
    """The chunks of the first pCPU, found by what the compressor writes."""
    size = min(w.PAGES_IN_CHUNK * recording.page_size, 1 << 20)
    magic = b"\x78" if recording.compressor == "zlib" else b"\x28\xb5\x2f\xfd"
    pattern = struct.pack("<I", size) + magic
    found, at = [], data.find(pattern)
    while at >= 0:
        found.append(at - 4)
        at = data.find(pattern, at + 1)
    return found


# --- files that end too early ---


def cut_file(version: int, compressor: w.Compressor) -> bytes:
    return w.trace_dat(made(version=version, compressor=compressor))


@pytest.mark.parametrize(("version", "compressor"), FILES)
def test_a_cut_file_gives_every_whole_event_before_the_cut(
    version: int, compressor: w.Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(w, "PAGES_IN_CHUNK", 2)
    data = cut_file(version, compressor)
    whole = sum(map(len, ALL.values()))
    seen = set()
    for at in range(0, len(data), max(1, len(data) // 150)):
        try:
            source = open_trace_dat(data[:at])
        except PiscopeError as error:
            assert "byte" in str(error) or "empty" in str(error)
            continue
        found = tids(source)
        for cpu, own in found.items():
            assert own == ALL[cpu][: len(own)]
        count = sum(map(len, found.values()))
        seen.add(count)
        if count < whole:
            assert source.losses, at
    assert max(seen) == whole if version == 7 else whole - 10
    assert len(seen) > 5


def test_the_last_sub_buffer_of_a_cut_file_is_read_as_far_as_it_goes() -> None:
    data = w.trace_dat(made(version=6))
    last = pages_in(data, 1)[-1]
    for bytes_left, kept in ((16, 0), (15, 0), (16 + 59, 0), (16 + 60, 1), (136, 2)):
        source = open_trace_dat(data[: last + bytes_left])
        assert tids(source)[1] == ALL[1][: 55 + kept], bytes_left
        assert causes(source) == {"truncated": 1, "cpustat-mismatch": 1}
        cut = source.losses[0]
        assert (cut.cpu, cut.start_ns) == (1, 10**6 + 100 * (54 + kept))
        assert f"lack their last {4096 - bytes_left} bytes" in cut.detail


@pytest.mark.parametrize("compressor", ["none", "zlib", "zstd"])
def test_without_the_options_that_describe_them_buffers_are_still_read(
    compressor: w.Compressor,
) -> None:
    data = w.trace_dat(made(compressor=compressor))
    # The last section is the options that name the buffer's pCPUs.
    end = data.rfind(struct.pack("<HI", w.BUFFER, 8 + 1 + 6 + 8 + 40)) - 16
    source = open_trace_dat(data[:end])
    assert tids(source) == ALL
    assert causes(source)["damaged"] >= 1
    details = " ".join(loss.detail for loss in source.losses)
    assert "2 were found" in details
    assert "assumed" not in details  # since CPUCOUNT says 2 as well


def test_a_broken_start_of_the_options_chain_is_replaced_by_a_walk() -> None:
    data = bytearray(w.trace_dat(made(compressor="zstd")))
    place = data.index(b"zstd\0") + 5 + 4
    data[place : place + 8] = struct.pack("<Q", 77)
    source = open_trace_dat(bytes(data))
    assert tids(source) == ALL
    assert "the chain of options" in source.losses[0].detail


def test_a_loop_of_options_ends() -> None:
    data = bytearray(w.trace_dat(made()))
    start = struct.unpack_from("<Q", data, data.index(b"none\0") + 5 + 4)[0]
    size = struct.unpack_from("<Q", data, start + 8)[0]
    data[start + 16 + size - 8 : start + 16 + size] = struct.pack("<Q", start)
    source = open_trace_dat(bytes(data))
    assert tids(source) == ALL
    assert "loop" in source.losses[0].detail


def test_damage_in_the_formats_of_a_v6_file_is_walked_around() -> None:
    data = bytearray(w.trace_dat(made(version=6)))
    size = data.index(b"name: kvm_entry") - 8
    data[size + 5] = 0x7F
    source = open_trace_dat(bytes(data))
    assert tids(source) == ALL
    assert source.counts == {"kvm:kvm_exit": 120}
    assert causes(source)["damaged"] >= 1


def test_a_file_that_ends_in_its_description_says_so() -> None:
    for version in (6, 7):
        data = w.trace_dat(made(version=version))
        with pytest.raises(TraceFormatError, match="byte"):
            open_trace_dat(data[: data.index(b"name: kvm_exit")])


# --- any bytes at all ---


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
