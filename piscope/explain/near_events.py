"""Which events around a notification are told.

    keys     rows of EVENTS that the story rests on
    near     the nearest others on the pCPUs and threads concerned

They are read once more, with all their fields (commands.explain_events).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piscope.explain.account import EventLine, Step
from piscope.sources.raw import RawChunk
from piscope.tables import Events

__all__ = ("Near", "near_of")

MOST_EVENTS = 24
"""Events that are told, at most."""

_EACH_SIDE = 3
# Rows of EVENTS on each side that are looked at for the nearest ones of a pCPU.
_WINDOW_ROWS = 1 << 16
_MOST_OF_A_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Near:
    """What to look for.

    keys      rows of EVENTS, each with the numbers of the steps that rest on it
    key_ns    int64[n]: their instants, ascending, each once; key_cpus: their pCPUs
    spans_ns  stretches of time, closed, of which all events concerned are told
    cpus, tids  concerned
    zero_ns   what offsets are counted from
    """

    keys: dict[int, list[int]]
    key_ns: npt.NDArray[np.int64]
    key_cpus: frozenset[int]
    spans_ns: tuple[tuple[int, int], ...]
    cpus: frozenset[int]
    tids: frozenset[int]
    zero_ns: int

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last instant, closed."""
        edges = [t for span in self.spans_ns for t in span]
        edges += [int(self.key_ns[0]), int(self.key_ns[-1])]
        return min(edges), max(edges)

    def told(self, chunk: RawChunk) -> npt.NDArray[np.bool_]:
        """bool[n]: which events of a chunk are told."""
        mask = np.zeros(len(chunk), np.bool_)
        for start_ns, end_ns in self.spans_ns:
            mask |= (chunk.ts_ns >= start_ns) & (chunk.ts_ns <= end_ns)
        concerned = np.isin(chunk.cpu, sorted(self.cpus))
        concerned |= np.isin(chunk.tid, sorted(self.tids))
        mask &= concerned
        mask |= np.isin(chunk.ts_ns, self.key_ns) & np.isin(
            chunk.cpu, sorted(self.key_cpus)
        )
        found = np.flatnonzero(mask)
        if len(found) > _MOST_OF_A_CHUNK:
            is_key = np.isin(chunk.ts_ns[found], self.key_ns)
            away_ns = np.abs(chunk.ts_ns[found] - self.zero_ns)
            found = found[np.lexsort((away_ns, ~is_key))[:_MOST_OF_A_CHUNK]]
        result = np.zeros(len(chunk), np.bool_)
        result[found] = True
        return result

    def lines(self, lines: Sequence[EventLine], events: Events) -> list[EventLine]:
        """The lines with the steps that rest on them, MOST_EVENTS at most."""
        return self._with_gaps(_fewer(_with_steps(lines, events, self.keys)))

    def _with_gaps(self, lines: list[EventLine]) -> list[EventLine]:
        # Between two lines of one span, only those that _fewer left out are missing.
        result = lines[:1]
        for before, line in pairwise(lines):
            told = any(
                start <= before.ts_ns and line.ts_ns <= end
                for start, end in self.spans_ns
            )
            result.append(replace(line, gap=line.gap or not told))
        return result


def near_of(
    events: Events,
    steps: Sequence[Step],
    rows: Sequence[int],
    more_rows: Iterable[int],
    instants: Iterable[tuple[int, int]],
    cpus: frozenset[int],
    tids: frozenset[int],
    zero_ns: int,
) -> Near:
    """What to look for around `instants`, (row, pCPU) each.

    `rows` are those that `steps` rest on, one a step; `more_rows` belong to the story
    as well.
    """
    keys: dict[int, list[int]] = {}
    for step, row in zip(steps, rows, strict=True):
        keys.setdefault(row, []).append(step.number)
    for row in more_rows:
        keys.setdefault(row, [])
    spans = []
    for row, cpu in instants:
        low, high = max(row - _WINDOW_ROWS, 0), min(row + _WINDOW_ROWS, len(events))
        on = low + np.flatnonzero(events.cpu[low:high] == cpu)
        place = int(np.searchsorted(on, row))
        nearest = on[max(place - _EACH_SIDE, 0) : place + _EACH_SIDE + 1]
        if len(nearest):
            spans.append(
                (int(events.ts_ns[nearest[0]]), int(events.ts_ns[nearest[-1]]))
            )
    at = sorted(keys)
    key_cpus = frozenset(events.cpu[at].tolist())
    key_ns = np.unique(events.ts_ns[at])
    return Near(keys, key_ns, key_cpus, tuple(spans), cpus, tids, zero_ns)


def _with_steps(
    lines: Sequence[EventLine], events: Events, keys: dict[int, list[int]]
) -> list[EventLine]:
    """The lines with the steps that rest on them: those rows of EVENTS, told apart."""
    rows: dict[tuple[int, int, int, str], list[int]] = {}
    for row in sorted(keys):
        name = events.names[int(events.event[row])][1]
        key = (
            int(events.ts_ns[row]),
            int(events.cpu[row]),
            int(events.tid[row]),
            name,
        )
        rows.setdefault(key, []).append(row)
    result = []
    for line in lines:
        same = rows.get((line.ts_ns, line.cpu, line.tid, line.event))
        steps = keys[same.pop(0)] if same else []
        result.append(replace(line, steps=steps))
    return result


def _fewer(lines: list[EventLine]) -> list[EventLine]:
    """MOST_EVENTS of them: those that steps rest on, then the nearest in time."""
    by_need = sorted(
        range(len(lines)), key=lambda i: (not lines[i].steps, abs(lines[i].offset_ns))
    )
    chosen = sorted(by_need[:MOST_EVENTS])
    result = []
    for place, i in enumerate(chosen):
        gap = place > 0 and i - chosen[place - 1] > 1
        result.append(replace(lines[i], gap=gap))
    return result
