"""Some rows of a trace, with their numbers in the whole: taken, and put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.events.ahead import ahead
from piscope.events.gather import Gathered
from piscope.events.markers import Markers
from piscope.events.merge import joined_in_order, merged
from piscope.events.normalize import cycles_to_ns
from piscope.sources.raw import Payload, RawChunk, Source, Wanted

__all__ = ("Rows", "blocks", "joined", "together")

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


def joined(blocks: Iterable[Rows]) -> RawChunk:
    """All rows of a trace's blocks, copied one behind the other."""
    whole = Gathered()
    for block in blocks:
        whole.extend(block.chunk)
    return whole.whole()


def blocks(
    source: Source, wanted: Wanted, size: int, tsc_khz: int | None, markers: Markers
) -> Iterator[Rows]:
    """The wanted events in time order, `size` rows at a time; the last has the rest."""
    cycles = tsc_khz is not None and source.info.ts_unit == "cycles"
    gathered, held, first = Gathered(), 0, 0

    def made() -> Rows:
        whole = gathered.whole()
        if cycles:
            assert tsc_khz is not None
            whole.ts_ns = cycles_to_ns(whole.ts_ns, tsc_khz)
        return Rows(np.arange(first, first + held), whole)

    for chunk in ahead(merged(source, wanted)):
        plain = markers.without(chunk)
        rest = Rows(np.arange(len(plain)), plain)
        while len(rest):
            room = size - held
            part = rest
            if len(rest) > room:
                part = rest.take(np.arange(room))
                rest = rest.take(np.arange(room, len(rest)))
            else:
                rest = rest.take(np.empty(0, np.int64))
            gathered.extend(part.chunk)
            held += len(part)
            if held == size:
                yield made()
                first += held
                gathered, held = Gathered(), 0
    if held:
        yield made()
