"""The lock-step walk, against a walk that goes entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers.ring_buffer import (
    PADDING,
    TIME_EXTEND,
    TIME_STAMP,
    PageShape,
    page_of,
    pages_of,
)

from piscope.sources.event_format import PageLayout
from piscope.sources.ring_buffer import walk

SHAPES = [PageShape(endian, size) for endian in ("little", "big") for size in (4, 8)]
IDS = [f"{s.endian}-{s.long_size * 8}bit" for s in SHAPES]


def layout_of(shape: PageShape) -> PageLayout:
    head = shape.header_size
    return PageLayout(0, 8, shape.long_size, 8, head, shape.page_size - head)


@dataclass
class Walked:
    """What one sub-buffer holds: (byte place, bytes, ts) of each event, and its end."""

    events: list[tuple[int, int, int]] = field(default_factory=list)
    damaged: bool = False
    stop: int = 0


def scalar_walk(shape: PageShape, page: bytes, available: int) -> Walked:
    """One entry after the other, as kbuffer-parse.c does it, with bounds."""
    out = Walked()
    ts = int.from_bytes(page[:8], shape.endian)
    low = int.from_bytes(page[8 : 8 + shape.long_size], shape.endian)
    used = low & ((1 << 27) - 1)
    head = shape.header_size
    if used > shape.page_size - head:
        return Walked([], True, 8)
    cut = used > available - head
    end = head + (min(used, max(0, available - head)) & ~3)
    out.damaged = used % 4 != 0 and not cut

    def word(at: int) -> int:
        return int.from_bytes(page[at : at + 4], shape.endian)

    at = head
    while at < end:
        value = word(at)
        if shape.endian == "little":
            kind, delta = value & 31, value >> 5
        else:
            kind, delta = value >> 27, value & ((1 << 27) - 1)
        if kind == PADDING and delta == 0:
            at = end
            break
        second = at + 4
        if kind in (0, PADDING, TIME_EXTEND, TIME_STAMP) and second >= end:
            break
        size = word(second)
        if kind == PADDING:
            if size < 4:
                break
            ts += delta
            at = min(end, second + -(-size // 4) * 4)
        elif kind == TIME_EXTEND:
            ts += size << 27 | delta
            at = second + 4
        elif kind == TIME_STAMP:
            ts = (ts & 0xF8 << 56) | (((size << 27) | delta) & ((1 << 59) - 1))
            at = second + 4
        else:
            start = second + 4 if kind == 0 else second
            length = size - 4 if kind == 0 else kind * 4
            after = start + -(-length // 4) * 4
            if length < 0 or after > end:
                break
            ts += delta
            out.events.append((start, length, ts & ((1 << 64) - 1)))
            at = after
        ts &= (1 << 64) - 1
    if at < end:
        out.damaged = not cut
    out.stop = at
    return out


def compare(shape: PageShape, pages: list[bytes], available: list[int]) -> None:
    data = np.frombuffer(b"".join(pages), np.uint8)
    entries, facts = walk(
        data,
        np.array(available, np.int64),
        layout_of(shape),
        shape.page_size,
        shape.endian,
    )
    for number, (page, there) in enumerate(zip(pages, available, strict=True)):
        expected = scalar_walk(shape, page, there)
        own = entries.page == number
        base = number * shape.page_size
        found = list(
            zip(
                (entries.at[own] - base).tolist(),
                entries.length[own].tolist(),
                entries.ts[own].tolist(),
                strict=True,
            )
        )
        assert found == expected.events
        assert facts.events[number] == len(found)
        assert facts.damaged[number] == expected.damaged
        assert facts.stop[number] == expected.stop


KINDS = (0, 1, 2, 3, 27, 28, PADDING, TIME_EXTEND, TIME_STAMP)
DELTAS = (0, 1, 5, 1 << 20, (1 << 27) - 1)
SIZES = (0, 3, 4, 5, 8, 12, 40, 4096, 0x80000000, 0xFFFFFFFF)


# Words that make every kind of entry likely, and bounds of lengths in particular:
# each byte chooses one.
def words_of(shape: PageShape, choices: bytes) -> bytes:
    heads = [shape.head(kind, delta) for kind in KINDS for delta in DELTAS]
    known = [*heads, *map(shape.word, SIZES)]
    return b"".join(known[choice % len(known)] for choice in choices)


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@settings(max_examples=100, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(
            st.binary(max_size=60),
            st.integers(0, (1 << 64) - 1),
            st.none() | st.integers(0, 260) | st.just(1 << 31),
            st.none() | st.integers(1, 256),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_lock_step_equals_the_walk_entry_by_entry(
    shape: PageShape, drawn: list[tuple[bytes, int, int | None, int | None]]
) -> None:
    small = PageShape(shape.endian, shape.long_size, page_size=256)
    pages, available = [], []
    for choices, ts, commit, there in drawn:
        body = words_of(small, choices)[: small.page_size - small.header_size]
        page = bytearray(page_of(small, ts, body))
        if commit is not None:
            page[8:16] = (
                commit.to_bytes(small.long_size, small.endian)
                + page[8 + small.long_size : 16]
            )
        # A reader clears what the file does not have.
        if there is not None:
            page[there:] = bytes(small.page_size - there)
        pages.append(bytes(page))
        available.append(max(there or small.page_size, small.header_size))
    compare(small, pages, available)


@pytest.mark.parametrize("stamps", ["delta", "absolute", "extend"])
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_times_and_records_come_back(shape: PageShape, stamps: str) -> None:
    form = PageShape(shape.endian, shape.long_size, stamps=stamps)  # type: ignore[arg-type]
    gaps = [0, 1, (1 << 27) - 1, 1 << 27, 1 << 40, 3]
    records, ts = [], 10**12
    for i in range(600):
        ts += gaps[i % len(gaps)]
        records.append((ts, bytes([i % 256]) * (8 + i % 5 * 40)))
    pages = list(pages_of(form, records))
    data = np.frombuffer(b"".join(pages), np.uint8)
    available = np.full(len(pages), form.page_size)
    entries, facts = walk(data, available, layout_of(form), 4096, form.endian)
    assert entries.ts.tolist() == [ts for ts, _ in records]
    assert entries.length.tolist() == [len(r) for _, r in records]
    places = zip(entries.at, entries.length, strict=True)
    found = [data[at : at + length].tobytes() for at, length in places]
    assert found == [record for _, record in records]
    assert not facts.damaged.any()
    assert not facts.cut.any()


def test_absolute_stamps_take_their_upper_bits_from_the_time_before() -> None:
    shape = PageShape(stamps="absolute")
    high = 0x50 << 56
    body = b"".join(
        shape.head(TIME_STAMP, ts & ((1 << 27) - 1))
        + shape.word(ts >> 27 & 0xFFFFFFFF)
        + shape.head(2, 0)
        + bytes(8)
        for ts in (high + 5, high + 6)
    )
    # A time extend that carries into these bits changes them for what follows.
    jump = 0x08 << 56
    body += shape.head(TIME_EXTEND, 0) + shape.word(jump >> 27 & 0xFFFFFFFF)
    body += shape.head(TIME_STAMP, 7) + shape.word(0) + shape.head(2, 0) + bytes(8)
    compare(shape, [page_of(shape, high, body)], [4096])


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("count", [None, 1, 12345])
def test_missed_events_and_their_stored_number(
    shape: PageShape, count: int | None
) -> None:
    entry = shape.head(2, 3) + bytes(8)
    pages = [page_of(shape, 50, entry), page_of(shape, 60, entry, missed=count)]
    _, facts = walk(
        np.frombuffer(b"".join(pages), np.uint8),
        np.array([4096, 4096]),
        layout_of(shape),
        4096,
        shape.endian,
    )
    assert facts.missed.tolist() == [False, True]
    assert facts.missed_known.tolist() == [False, count is not None]
    assert facts.missed_count.tolist() == [0, count or 0]
    assert facts.events.tolist() == [1, 1]


def test_a_stored_number_of_minus_one_is_unknown() -> None:
    shape = PageShape()
    page = page_of(shape, 60, shape.head(2, 3) + bytes(8), missed=-1)
    _, facts = walk(
        np.frombuffer(page, np.uint8),
        np.array([4096]),
        layout_of(shape),
        4096,
        "little",
    )
    assert facts.missed.tolist() == [True]
    assert facts.missed_known.tolist() == [False]


def test_an_unused_page_and_a_page_that_says_too_much() -> None:
    shape = PageShape()
    lie = bytearray(page_of(shape, 60, shape.head(2, 3) + bytes(8)))
    lie[8:10] = b"\xff\x7f"
    _, facts = walk(
        np.frombuffer(bytes(4096) + bytes(lie), np.uint8),
        np.array([4096, 4096]),
        layout_of(shape),
        4096,
        "little",
    )
    assert facts.events.tolist() == [0, 0]
    assert facts.damaged.tolist() == [False, True]


def test_sub_buffers_of_any_size() -> None:
    for page_size in (512, 8192, 65536):
        shape = PageShape(page_size=page_size)
        records = [(1000 + i, bytes(12)) for i in range(9000)]
        pages = list(pages_of(shape, records))
        compare(shape, pages, [page_size] * len(pages))
