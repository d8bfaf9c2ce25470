"""The events of a source in global time order, in bounded memory.

A source gives chunks that are ordered within each pCPU only. To be read beside
`RawChunk.watermark_ns` of piscope/sources/raw.py.

    chunk 1  cpu 0  |--------------|
    chunk 2  cpu 1  |-----------|
    chunk 3  cpu 0                 |------------|
                                ^ watermark of chunk 2: all that lies before it
                                  is known, and leaves in order
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Payload, RawChunk, Source, Wanted

__all__ = ("MERGED_ROWS", "cut", "joined", "joined_in_order", "merged", "time_order")

MERGED_ROWS = 1 << 18
"""Events in a chunk that `merged` gives, at most; as sources bound theirs."""

_EAGER_ROWS = 1 << 15
# Fewer pending rows than this are not worth a sort of their own.


def merged(source: Source, wanted: Wanted) -> Iterator[RawChunk]:
    """The wanted events by time, then pCPU, then order in the pCPU's buffer.

    Chunks hold 1 to MERGED_ROWS events, and no event of a chunk lies before one of
    an earlier chunk. What is kept in memory is what lies after the last known
    watermark, and at most as much again; without watermarks it is the whole trace.
    A source that breaks its own watermark has the late events given late, not lost.
    """
    pending: list[RawChunk] = []
    pending_rows = kept_rows = 0
    for chunk in source.chunks(wanted):
        if len(chunk):
            pending.append(chunk)
            pending_rows += len(chunk)
        if chunk.watermark_ns is None:
            continue
        # Rows that stay are copied by each cut: waiting until as many new ones have
        # come keeps the copies in proportion to the trace.
        if pending_rows < max(_EAGER_ROWS, 2 * kept_rows):
            continue
        whole = joined(pending)
        ready = int(np.searchsorted(whole.ts_ns, chunk.watermark_ns, side="left"))
        yield from _pieces(whole, 0, ready)
        rest = cut(whole, ready, len(whole))
        pending, kept_rows = ([rest] if len(rest) else []), len(rest)
        pending_rows = kept_rows
    whole = joined(pending)
    yield from _pieces(whole, 0, len(whole))


def joined(chunks: Sequence[RawChunk]) -> RawChunk:
    """One chunk of all events of the given ones, by (ts_ns, cpu, seq).

    A field that only some of an event's payloads have is marked invalid in the rows
    of the others. Any number of rows; no watermark.
    """

    ts_ns, cpu = _column(chunks, "ts_ns", np.int64), _column(chunks, "cpu", np.int32)
    seq = _column(chunks, "seq", np.int64)
    order = time_order(ts_ns, cpu, seq)
    return _joined(chunks, order, seq=seq)


def joined_in_order(chunks: Sequence[RawChunk], number: Array) -> RawChunk:
    """The same by `number`, int64[rows of all chunks], no two alike; without `seq`."""
    falls = len(number) > 1 and bool((np.diff(number) < 0).any())
    order = np.argsort(number, kind="stable") if falls else None
    return _joined(chunks, order, seq=None)


def _column(chunks: Sequence[RawChunk], name: str, dtype: npt.DTypeLike) -> Array:
    arrays = [getattr(c, name) for c in chunks]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _joined(
    chunks: Sequence[RawChunk],
    order: npt.NDArray[np.int64] | None,
    seq: Array | None,
) -> RawChunk:
    place: npt.NDArray[np.int64] | None = None
    if order is not None:
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))

    def in_order(values: Array) -> Array:
        return values if order is None else values[order]

    return RawChunk(
        ts_ns=in_order(_column(chunks, "ts_ns", np.int64)),
        cpu=in_order(_column(chunks, "cpu", np.int32)),
        seq=np.empty(0, np.int64) if seq is None else in_order(seq),
        tid=in_order(_column(chunks, "tid", np.int32)),
        flags=in_order(_column(chunks, "flags", np.uint8)),
        event=in_order(_column(chunks, "event", np.uint16)),
        payload=_joined_payloads(chunks, place),
        place=(
            in_order(_column(chunks, "place", np.int64))
            if chunks and all(c.place is not None for c in chunks)
            else None
        ),
    )


def time_order(ts_ns: Array, cpu: Array, seq: Array) -> npt.NDArray[np.int64] | None:
    """int64[n]: the stable order by (ts_ns, cpu, seq); None: the rows have it."""
    if len(ts_ns) < 2:
        return None
    step, cpu_step = np.diff(ts_ns), np.diff(cpu)
    tie = step == 0
    later = (step < 0) | (tie & (cpu_step < 0))
    later |= tie & (cpu_step == 0) & (np.diff(seq) < 0)
    if not later.any():
        return None
    # Rows are nearly always in order within a pCPU, so two stable sorts do: the
    # first puts each pCPU's rows together, which leaves few long runs to merge.
    by_cpu = np.argsort(cpu, kind="stable")
    same = np.diff(cpu[by_cpu]) == 0
    step, seq_step = np.diff(ts_ns[by_cpu]), np.diff(seq[by_cpu])
    if (same & ((step < 0) | ((step == 0) & (seq_step < 0)))).any():
        return np.lexsort((seq, cpu, ts_ns))
    order: npt.NDArray[np.int64] = by_cpu[np.argsort(ts_ns[by_cpu], kind="stable")]
    return order


def _joined_payloads(
    chunks: Sequence[RawChunk], place: npt.NDArray[np.int64] | None
) -> dict[int, Payload]:
    # `place` is the inverse of the order: where each concatenated row goes.
    starts = np.cumsum([0, *(len(c) for c in chunks)])
    parts: dict[int, list[tuple[int, Payload]]] = {}
    for start, chunk in zip(starts, chunks, strict=False):
        for index, payload in chunk.payload.items():
            parts.setdefault(index, []).append((int(start), payload))
    return {index: _joined_payload(found, place) for index, found in parts.items()}


def _joined_payload(
    parts: list[tuple[int, Payload]], place: npt.NDArray[np.int64] | None
) -> Payload:
    rows = np.concatenate([p.rows + start for start, p in parts])
    order: npt.NDArray[np.int64] | None = None
    if place is not None:
        rows = place[rows]
        if (np.diff(rows) < 0).any():
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
    columns: dict[str, Array] = {}
    valid: dict[str, npt.NDArray[np.bool_]] = {}
    payloads = [p for _, p in parts]
    for name in dict.fromkeys(n for p in payloads for n in p.columns):
        values, known = _joined_column(name, payloads)
        columns[name] = values if order is None else values[order]
        if not known.all():
            valid[name] = known if order is None else known[order]
    return Payload(rows, columns, valid)


def _joined_column(
    name: str, payloads: list[Payload]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    dtype = next(p.columns[name].dtype for p in payloads if name in p.columns)
    arrays, known = [], []
    for p in payloads:
        if name in p.columns:
            arrays.append(p.columns[name])
            known.append(p.valid.get(name, np.ones(len(p.rows), np.bool_)))
        else:
            # Texts only: a key that no line of this chunk had.
            arrays.append(np.zeros(len(p.rows), dtype))
            known.append(np.zeros(len(p.rows), np.bool_))
    kinds = {a.dtype.kind for a in arrays}
    wide = np.result_type(*arrays).kind
    if wide not in kinds or (len(kinds) > 1 and wide not in "iu"):
        # Texts again: a key whose values are numbers in one chunk and words in the
        # next, or int64 beside uint64, which numpy would turn into float64.
        arrays = [a.astype(object) for a in arrays]
    return np.concatenate(arrays), np.concatenate(known)


def _pieces(chunk: RawChunk, start: int, stop: int) -> Iterator[RawChunk]:
    for begin in range(start, stop, MERGED_ROWS):
        yield cut(chunk, begin, min(begin + MERGED_ROWS, stop))


def cut(chunk: RawChunk, start: int, stop: int) -> RawChunk:
    """The rows of a chunk from `start` to before `stop`, mostly as views."""
    payload: dict[int, Payload] = {}
    for index, p in chunk.payload.items():
        first, last = np.searchsorted(p.rows, (start, stop))
        if first < last:
            payload[index] = Payload(
                p.rows[first:last] - start,
                {name: values[first:last] for name, values in p.columns.items()},
                {name: known[first:last] for name, known in p.valid.items()},
            )
    rows = slice(start, stop)
    return RawChunk(
        ts_ns=chunk.ts_ns[rows],
        cpu=chunk.cpu[rows],
        seq=chunk.seq[rows],
        tid=chunk.tid[rows],
        flags=chunk.flags[rows],
        event=chunk.event[rows],
        payload=payload,
        place=None if chunk.place is None else chunk.place[rows],
    )
