"""Some rows of a trace, with their numbers in the whole: taken, and put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piscope.events.ahead import ahead
from piscope.events.gather import Gathered
from piscope.events.markers import Markers
from piscope.events.merge import cut, joined_in_order, merged
from piscope.events.normalize import cycles_to_ns
from piscope.sources.raw import Payload, RawChunk, Source, Wanted

__all__ = ("Rows", "blocks", "numbered", "plain", "together")

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a trace in order.

    number  int64[n]  each one's row of EVENTS of the whole trace, ascending
    chunk   the rows themselves
    """

    number: Numbers
    chunk: RawChunk

    def __len__(self) -> int:
        return len(self.number)

    def take(self, at: Numbers) -> Rows:
        """The rows at these ascending places, copied."""
        chunk = self.chunk
        payload: dict[int, Payload] = {}
        for index, p in chunk.payload.items():
            place = np.searchsorted(p.rows, at)
            got = np.minimum(place, max(len(p.rows) - 1, 0))
            found = p.rows[got] == at if len(p.rows) else np.zeros(len(at), np.bool_)
            some = got[found]
            if len(some):
                payload[index] = Payload(
                    np.flatnonzero(found),
                    {name: values[some] for name, values in p.columns.items()},
                    {name: known[some] for name, known in p.valid.items()},
                )
        taken = RawChunk(
            ts_ns=chunk.ts_ns[at],
            cpu=chunk.cpu[at],
            seq=np.empty(0, np.int64),
            tid=chunk.tid[at],
            flags=chunk.flags[at],
            event=chunk.event[at],
            payload=payload,
        )
        return Rows(self.number[at], taken)

    def places(self, number: Numbers) -> Numbers:
        """int64[m]: the places of these rows, ascending; those that are here."""
        at = np.searchsorted(self.number, number)
        at = at[at < len(self.number)] if len(at) else at
        found: Numbers = np.unique(at[np.isin(self.number[at], number)])
        return found


def together(pieces: Sequence[Rows]) -> Rows:
    """All rows of the pieces in order, each one once."""
    pieces = [piece for piece in pieces if len(piece)]
    number = np.concatenate([p.number for p in pieces] or [np.empty(0, np.int64)])
    unique, first = np.unique(number, return_index=True)
    if len(unique) < len(number):
        kept = np.zeros(len(number), np.bool_)
        kept[first] = True
        ends = np.cumsum([0, *(len(p) for p in pieces)])
        pieces = [
            piece if mine.all() else piece.take(np.flatnonzero(mine))
            for piece, mine in (
                (p, kept[a:b]) for p, a, b in zip(pieces, ends, ends[1:], strict=False)
            )
        ]
        number = np.concatenate([p.number for p in pieces])
    return Rows(unique, joined_in_order([p.chunk for p in pieces], number))


def plain(
    source: Source, wanted: Wanted, tsc_khz: int | None, markers: Markers
) -> Iterator[RawChunk]:
    """The wanted events in time order, without markers, chunk by chunk.

    `tsc_khz` as for events.normalize.collect.
    """
    for chunk in ahead(merged(source, wanted)):
        rows = markers.without(chunk)
        if tsc_khz is not None and source.info.ts_unit == "cycles":
            rows = replace(rows, ts_ns=cycles_to_ns(rows.ts_ns, tsc_khz))
        yield rows


def numbered(chunks: Iterable[RawChunk]) -> Iterator[Rows]:
    """Chunks that follow one another, each with the numbers of its rows."""
    first = 0
    for chunk in chunks:
        yield Rows(np.arange(first, first + len(chunk)), chunk)
        first += len(chunk)


def blocks(chunks: Iterable[RawChunk], size: int) -> Iterator[Rows]:
    """The rows of chunks, `size` at a time; the last block has the rest."""
    gathered, held, first = Gathered(), 0, 0
    for chunk in chunks:
        done = 0
        while done < len(chunk):
            stop = min(done + size - held, len(chunk))
            gathered.extend(cut(chunk, done, stop))
            held += stop - done
            done = stop
            if held == size:
                yield Rows(np.arange(first, first + held), gathered.whole())
                first += held
                gathered, held = Gathered(), 0
    if held:
        yield Rows(np.arange(first, first + held), gathered.whole())
