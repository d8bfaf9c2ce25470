"""What can still be read of a trace.dat that is damaged or cut."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_dat_cases import ALL, FILES, causes, made, tids

from piscope.errors import PiscopeError, TraceFormatError
from piscope.sources.trace_dat import open_trace_dat
from piscope.synth import trace_dat_file


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
    monkeypatch.setattr(trace_dat_file, "PAGES_IN_CHUNK", 2)
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
    monkeypatch.setattr(trace_dat_file, "PAGES_IN_CHUNK", 2)
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
    size = min(trace_dat_file.PAGES_IN_CHUNK * recording.page_size, 1 << 20)
    magic = b"\x78" if recording.compressor == "zlib" else b"\x28\xb5\x2f\xfd"
    pattern = struct.pack("<I", size) + magic
    found, at = [], data.find(pattern)
    while at >= 0:
        found.append(at - 4)
        at = data.find(pattern, at + 1)
    return found


def cut_file(version: int, compressor: w.Compressor) -> bytes:
    return w.trace_dat(made(version=version, compressor=compressor))


@pytest.mark.parametrize(("version", "compressor"), FILES)
def test_a_cut_file_gives_every_whole_event_before_the_cut(
    version: int, compressor: w.Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_dat_file, "PAGES_IN_CHUNK", 2)
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
