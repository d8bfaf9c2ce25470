"""A source with holes: another one's events without some stretches of its pCPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from piscope.sources.raw import Loss, Payload, RawChunk, Source, Wanted

Hole = tuple[int, int, int]
"""pCPU, first and last instant that are lost."""


class HoledSource:
    """What a ring buffer that was too small would have kept of `whole`.

    counted  the losses tell how many of the wanted events they were
    """

    def __init__(
        self, whole: Source, holes: Sequence[Hole], *, counted: bool = False
    ) -> None:
        self._whole = whole
        self._holes = list(holes)
        self._counted = counted
        self.info = whole.info
        self.events = whole.events
        self.formats = whole.formats
        self.counts: dict[str, int] = {}
        self.losses: list[Loss] = []

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        lost = [0] * len(self._holes)
        for chunk in self._whole.chunks(wanted):
            keep = np.ones(len(chunk), np.bool_)
            for number, (cpu, first_ns, last_ns) in enumerate(self._holes):
                here = (chunk.cpu == cpu) & (chunk.ts_ns >= first_ns)
                here &= chunk.ts_ns <= last_ns
                lost[number] += int((here & keep).sum())
                keep &= ~here
            yield _kept(chunk, keep)
        self.counts = self._whole.counts
        self.losses = list(self._whole.losses)
        for (cpu, first_ns, last_ns), count in zip(self._holes, lost, strict=True):
            told = count if self._counted else None
            if count:
                self.losses.append(
                    Loss("missed-events", cpu, first_ns, last_ns, told, "a test's hole")
                )

    def close(self) -> None:
        self._whole.close()


def _kept(chunk: RawChunk, keep: np.ndarray) -> RawChunk:
    place = np.cumsum(keep) - 1
    payload = {}
    for event, p in chunk.payload.items():
        left = keep[p.rows]
        payload[event] = Payload(
            place[p.rows[left]],
            {name: column[left] for name, column in p.columns.items()},
            {name: valid[left] for name, valid in p.valid.items()},
        )
    return replace(
        chunk,
        **{
            name: getattr(chunk, name)[keep]
            for name in ("ts_ns", "cpu", "seq", "tid", "flags", "event")
        },
        payload=payload,
    )
