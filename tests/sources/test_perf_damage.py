"""Hostile bytes: what comes is data with an account of what is missing, or one line."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import perf_data as w

from piscope.errors import PiscopeError
from piscope.sources.perf_data import open_perf_data
from piscope.sources.raw import Wanted

EVENT = w.Event(
    "kvm",
    "kvm_exit",
    1594,
    (
        ("unsigned int", "exit_reason", 4, False),
        ("char", "comm[16]", 16, False),
        ("__data_loc char[]", "why", 4, False),
    ),
    sample_type=w.PLAIN | w.CALLCHAIN | w.READ,
    read_format=1 | 4 | 8,
)


def some_file(form: str, *, count: int = 60, big: bool = False) -> bytes:
    writer = w.Writer([EVENT], "big" if big else "little", cpus=2)
    samples = [
        w.Sample(
            "kvm:kvm_exit", 1000 + 10 * i, i % 2, 7 + i % 3,
            {"exit_reason": i % 60, "comm": b"vcpu", "why": "x" * (i % 7)},
            callchain=(1, 2), read_members=1 + i % 2,
        )
        for i in range(count)
    ]  # fmt: skip
    records = writer.comm(7, 7, "qemu") + writer.lost(5, 1000, 1)
    records += writer.records(samples, rounds_every=7)
    if form.endswith("z"):
        records = writer.compressed(records, piece_bytes=400)
    records += writer.auxtrace(b"data" * 4)
    return writer.pipe(records) if form.startswith("pipe") else writer.file(records)


def outcome(data: bytes) -> int:
    """Rows read; -1: refused by a PiscopeError with a message of one line."""
    try:
        source = open_perf_data(io.BytesIO(data))
        rows = 0
        last = -1
        for chunk in source.chunks(Wanted({"*": None})):
            rows += len(chunk)
            assert chunk.ts_ns[0] >= last
            last = chunk.ts_ns[-1]
            for payload in chunk.payload.values():
                for column in payload.columns.values():
                    assert len(column) == len(payload.rows)
        assert len(source.losses) < 5000
    except PiscopeError as error:
        assert "\n" not in str(error)
        return -1
    return rows


FORMS = ["file", "filez", "pipe", "pipez"]
WHOLE = {(form, big): some_file(form, big=big) for form in FORMS for big in (0, 1)}


@pytest.mark.parametrize("form", FORMS)
def test_whole(form: str) -> None:
    assert outcome(WHOLE[form, 0]) == outcome(WHOLE[form, 1]) == 60


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1))
def test_cut_anywhere(which: tuple[str, int], part: float) -> None:
    data = WHOLE[which]
    assert outcome(data[: int(part * len(data))]) <= 60


def test_every_cut_of_a_pipe_gives_what_is_whole() -> None:
    data = WHOLE["pipe", 0]
    rows = [outcome(data[:at]) for at in range(len(data) - 400, len(data), 7)]
    assert rows == sorted(rows)
    assert rows[0] < rows[-1]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1),
)
def test_bytes_changed(
    which: tuple[str, int], changes: list[tuple[float, int]]
) -> None:
    data = bytearray(WHOLE[which])
    for place, value in changes:
        data[int(place * len(data))] = value
    outcome(bytes(data))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.floats(0, 0.999),
    st.sampled_from([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f" * 2, b"\x80" * 4]),
)
def test_lengths_that_lie(which: tuple[str, int], place: float, value: bytes) -> None:
    data = bytearray(WHOLE[which])
    at = int(place * len(data)) & ~3
    data[at : at + len(value)] = value
    outcome(bytes(data))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([b"PERFILE2", b"2ELIFREP"]), st.binary(max_size=400))
def test_anything_behind_the_magic(magic: bytes, rest: bytes) -> None:
    assert outcome(magic + rest) <= 0


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=3000), st.sampled_from(["file", "pipe"]))
def test_anything_for_records(junk: bytes, form: str) -> None:
    writer = w.Writer([EVENT])
    outcome(writer.file(junk) if form == "file" else writer.pipe(junk))


def test_a_real_recording_with_flipped_bits(samples: Path) -> None:
    found = sorted(samples.glob("*.perf.data"))
    if not found:
        pytest.skip("no perf.data among the samples")
    whole = found[0].read_bytes()
    rng = random.Random(1)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        outcome(bytes(data))
