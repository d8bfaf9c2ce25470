"""Chunks that are ordered within a pCPU leave in global order, whole and early."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_source import FakeSource, Row
from hypothesis import given
from hypothesis import strategies as st

from piscope.events import merge
from piscope.events.merge import joined, merged, time_order
from piscope.sources.raw import Payload, RawChunk, Wanted

ALL = Wanted({"*": None})


def _rows(chunks: list[RawChunk], source: FakeSource) -> list[tuple[Any, ...]]:
    """Every event as (ts, cpu, seq, name, fields), to compare with what went in."""
    out = []
    for chunk in chunks:
        fields: dict[int, dict[str, Any]] = {i: {} for i in range(len(chunk))}
        for payload in chunk.payload.values():
            assert (np.diff(payload.rows) > 0).all()
            for name, values in payload.columns.items():
                known = payload.valid.get(name, np.ones(len(values), bool))
                for row, value, has in zip(
                    payload.rows.tolist(), values.tolist(), known, strict=True
                ):
                    if has:
                        fields[row][name] = value
        for i in range(len(chunk)):
            name = ":".join(source.events[chunk.event[i]])
            out.append(
                (
                    int(chunk.ts_ns[i]),
                    int(chunk.cpu[i]),
                    int(chunk.seq[i]),
                    name,
                    fields[i],
                )
            )
    return out


def _given(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [
        (ts, cpu, seq, key, {k: v for k, v in fields.items() if v is not None})
        for seq, (ts, cpu, _, key, fields) in enumerate(rows)
    ]


row_lists = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 3),
        st.just(7),
        st.sampled_from(["kvm:kvm_entry", "sched:sched_switch", "x:y"]),
        st.fixed_dictionaries({}, optional={"a": st.integers(0, 9), "b": st.just("t")}),
    ),
    max_size=40,
)


@given(row_lists, st.integers(1, 12), st.booleans(), st.integers(0, 8))
def test_all_events_in_order(
    rows: list[Row], chunk_rows: int, watermarks: bool, eager: int
) -> None:
    source = FakeSource(rows, chunk_rows=chunk_rows, watermarks=watermarks)
    patience = merge._EAGER_ROWS
    merge._EAGER_ROWS = eager
    try:
        chunks = list(merged(source, ALL))
    finally:
        merge._EAGER_ROWS = patience
    expected = sorted(_given(rows), key=lambda r: r[:3])
    assert _rows(chunks, source) == expected
    assert all(len(c) for c in chunks)


def test_events_before_the_watermark_leave_at_once() -> None:
    # cpu 0 and cpu 1 in turn, ten events each time
    def rows(start: int) -> list[Row]:
        return [(start + i, (start // 10) % 2, 1, "x:y", {}) for i in range(10)]

    source = FakeSource(
        [row for start in range(0, 400, 10) for row in rows(start)],
        chunk_rows=10,
        watermarks=True,
    )
    waiting = source.chunks(ALL)
    taken = 0

    class Counting(FakeSource):
        def chunks(self, wanted: Wanted) -> Any:
            nonlocal taken
            for chunk in waiting:
                taken += 1
                yield chunk

    counting = Counting([])
    counting.events = source.events
    patience = merge._EAGER_ROWS
    merge._EAGER_ROWS = 1
    try:
        first = next(iter(merged(counting, ALL)))
    finally:
        merge._EAGER_ROWS = patience
    assert taken == 1
    assert first.ts_ns.tolist() == list(range(10))


def test_pieces_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(merge, "MERGED_ROWS", 4)
    source = FakeSource([(9 - i, 0, 1, "x:y", {"a": i}) for i in range(10)])
    chunks = list(merged(source, ALL))
    assert [len(c) for c in chunks] == [4, 4, 2]
    assert _rows(chunks, source) == sorted(_given(source._rows), key=lambda r: r[:3])


def test_order_is_stable_where_it_is_given_already() -> None:
    ts_ns = np.array([1, 2, 2, 3])
    assert time_order(ts_ns, np.array([0, 0, 1, 0]), np.array([0, 1, 0, 2])) is None
    assert time_order(ts_ns, np.array([0, 1, 0, 0]), np.arange(4)) is not None


def _chunk(values: Any) -> RawChunk:
    n = len(values)
    zeros = np.zeros(n, np.int64)
    return RawChunk(
        ts_ns=zeros,
        cpu=zeros.astype(np.int32),
        seq=zeros,
        tid=zeros.astype(np.int32),
        flags=zeros.astype(np.uint8),
        event=zeros.astype(np.uint16),
        payload={0: Payload(np.arange(n), {"f": np.array(values)})},
    )


def test_a_field_that_changes_its_type_keeps_its_values() -> None:
    big = 2**64 - 1
    for first, second in (
        (np.array([-1]), np.array([big], np.uint64)),
        (np.array([5]), np.array([b"HLT"])),
        (np.array([5], np.uint32), np.array([b"HLT"])),
        (np.array([5]), np.array(["HLT"], object)),
        (np.array([b"a"]), np.array([b"abc"])),
    ):
        values = joined([_chunk(first), _chunk(second)]).payload[0].columns["f"]
        assert values.tolist() == [*first.tolist(), *second.tolist()]


def test_an_empty_trace_has_no_chunks() -> None:
    assert list(merged(FakeSource([]), ALL)) == []
    assert len(joined([])) == 0
