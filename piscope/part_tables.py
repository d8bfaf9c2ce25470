"""The tables of a trace that comes in parts, as Arrow tables with the whole's numbers.

    PartTables
      tables_of(first part)   (name, rows of that table) ...
      tables_of(second part)  ...

Each part gives its own rows (`parts.Own`). Joined over all parts they are the tables of
the whole trace, as `schema` declares them, but for two things: the rows come part after
part, in the declared order within each, and so are WINDOWS, POSTS and STIMULI numbered.
A window is numbered where it is first met, which may be in a part before its own: a
put, or a post that fell into it, comes before what ends it.

A trace that is one part gives what `arrow_tables.arrow_table` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from piscope.arrow_tables import (
    event_tables,
    findings_table,
    intervals_table,
    losses_table,
    posts_table,
    stimuli_table,
    vcpus_table,
    windows_table,
)
from piscope.outcomes import Findings
from piscope.pipeline import Part
from piscope.replay.stimuli import Stimuli
from piscope.schema import TABLES
from piscope.tables import Intervals, Posts, Windows

__all__ = ("PartTables",)

Numbers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ROW_BITS = 40  # a window's key is vcpu << _ROW_BITS | put_row


class PartTables:
    """Gives the own rows of one part after another.

    Between parts it holds the next numbers, and those of the windows that a part to
    come may have: 17 bytes each.
    """

    def __init__(self) -> None:
        self._posts = 0
        self._stimuli = 0
        self._windows = _WindowNumbers()

    def tables_of(
        self, part: Part, names: Collection[str] = tuple(TABLES)
    ) -> Iterator[tuple[str, pa.Table]]:
        """The own rows of a part's tables, in the order of `schema.TABLES`.

        Only the tables of those names. EVENTS comes in pieces, each other table once;
        LOSSES and VCPUS, which are of the whole trace in every part, with the last.
        The parts have to be given in order, each of them once. A table is made when
        the iterator comes to it.
        """
        numbered = self._number(part)
        whole_trace = ("LOSSES", "VCPUS")
        makers: dict[str, Callable[[], Iterator[pa.Table]]] = {
            "EVENTS": numbered.events,
            "LOSSES": lambda: iter([losses_table(part.analysis.events.losses)]),
            "VCPUS": lambda: iter([vcpus_table(part.analysis.timeline.vcpus)]),
            "INTERVALS": lambda: iter([numbered.intervals()]),
            "WINDOWS": lambda: iter([numbered.windows()]),
            "POSTS": lambda: iter([numbered.posts()]),
            "STIMULI": lambda: iter([numbered.stimuli()]),
            "FINDINGS": lambda: iter([numbered.findings()]),
        }
        wanted = [
            name
            for name in TABLES
            if name in names and (part.own.last or name not in whole_trace)
        ]
        return ((name, table) for name in wanted for table in makers[name]())

    def _number(self, part: Part) -> _Numbered:
        analysis, own = part.analysis, part.own
        windows, posts = analysis.timeline.windows, analysis.timeline.posts
        stimuli = analysis.stimuli
        own_windows, own_posts = own.windows(windows), own.posts(posts)
        own_stimuli = own.stimuli(stimuli, posts, windows)
        met = own_windows.copy()
        met[_known(stimuli.window[own_stimuli])] = True
        for result in analysis.results.values():
            found = result.findings
            met[_known(found.window[own_stimuli[found.stimulus]])] = True
        keys = windows.vcpu.astype(np.int64) << _ROW_BITS
        keys |= _mapped(part.rows, windows.put_row)
        numbered = _Numbered(
            part,
            own_windows,
            own_posts,
            own_stimuli,
            self._windows.of(keys, met, own_windows),
            _running(own_posts, self._posts),
            _running(own_stimuli, self._stimuli),
        )
        self._posts += int(own_posts.sum())
        self._stimuli += int(own_stimuli.sum())
        return numbered


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A part with the numbers that its rows have in the whole trace's tables.

    own_*               bool[n]   which rows are the part's own
    window, post, stimulus  int64[n]  the numbers; -1: neither own nor met
    """

    part: Part
    own_windows: Bools
    own_posts: Bools
    own_stimuli: Bools
    window: Numbers
    post: Numbers
    stimulus: Numbers

    def events(self) -> Iterator[pa.Table]:
        part, own = self.part, self.part.own
        return event_tables(part.analysis.events, own.begin, own.end, part.rows)

    def intervals(self) -> pa.Table:
        rows: Intervals = self.part.analysis.timeline.intervals
        rows = _taken(rows, self.part.own.intervals(rows))
        return intervals_table(replace(rows, row=self._row(rows.row)))

    def windows(self) -> pa.Table:
        rows: Windows = _taken(self.part.analysis.timeline.windows, self.own_windows)
        count = len(self.part.rows)
        end_row = np.full(len(rows), self.part.rows[-1] + 1 if count else 0, np.int64)
        ends = np.flatnonzero(rows.end_row < count)
        end_row[ends] = self._row(rows.end_row[ends])
        rows = replace(
            rows,
            put_row=self._row(rows.put_row),
            load_row=self._row(rows.load_row),
            end_row=end_row,
        )
        return windows_table(rows, self.window[self.own_windows])

    def posts(self) -> pa.Table:
        rows: Posts = _taken(self.part.analysis.timeline.posts, self.own_posts)
        rows = replace(
            rows,
            at=self._row(rows.at),
            row=self._row(rows.row),
            cause=self._row(rows.cause),
        )
        return posts_table(rows, self.post[self.own_posts])

    def stimuli(self) -> pa.Table:
        whole, own = self.part.analysis.stimuli, self.own_stimuli
        rows: Stimuli = _taken(
            whole,
            own,
            starts=np.searchsorted(whole.vcpu[own], np.arange(len(whole.starts))),
            row=self._row(whole.row[own]),
            window=_mapped(self.window, whole.window[own]),
            post=_mapped(self.post, whole.post[own]),
        )
        return stimuli_table(rows, self.stimulus[self.own_stimuli])

    def findings(self) -> pa.Table:
        found = {}
        for policy, result in self.part.analysis.results.items():
            rows: Findings = result.findings
            rows = _taken(rows, self.own_stimuli[rows.stimulus])
            found[policy] = replace(
                rows,
                stimulus=self.stimulus[rows.stimulus],
                window=_mapped(self.window, rows.window),
            )
        return findings_table(found)

    def _row(self, row: Numbers) -> Numbers:
        return _mapped(self.part.rows, row)


class _WindowNumbers:
    """The numbers of windows that were met, by key, as long as a part may have them.

    That is until a window was given as a part's own and no part has it as context: a
    post stands where its call chain began, and its cause may lie in a window before.
    """

    def __init__(self) -> None:
        self._next = 0
        self._keys = np.empty(0, np.int64)  # ascending
        self._numbers = np.empty(0, np.int64)
        self._given = np.empty(0, np.bool_)

    def of(self, keys: Numbers, met: Bools, own: Bools) -> Numbers:
        """int64[windows]: the numbers of a part's windows, -1 where it is none yet.

        Those that are `met` and have none get one; `own` are those that are given now.
        """
        at = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), np.bool_)
        inside = np.flatnonzero(at < len(self._keys))
        known[inside] = self._keys[at[inside]] == keys[inside]
        numbers = np.full(len(keys), -1, np.int64)
        numbers[known] = self._numbers[at[known]]
        given = own.copy()
        given[known] |= self._given[at[known]]
        new = np.flatnonzero(met & ~known)
        numbers[new] = np.arange(self._next, self._next + len(new))
        self._next += len(new)

        awaited = ~self._given
        awaited[at[known]] = False
        here = np.flatnonzero(numbers >= 0)
        keys = np.concatenate((self._keys[awaited], keys[here]))
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._numbers = np.concatenate((self._numbers[awaited], numbers[here]))[order]
        self._given = np.concatenate((self._given[awaited], given[here]))[order]
        return numbers


_Table = TypeVar("_Table", Intervals, Windows, Posts, Stimuli, Findings)


def _taken(rows: _Table, which: Bools, **others: Any) -> _Table:
    """Those rows of a table; `others` are fields that are given as they shall be."""
    columns: dict[str, Any] = {}
    if not which.all():
        for f in fields(rows):
            value = getattr(rows, f.name)
            if f.name not in others and isinstance(value, np.ndarray):
                columns[f.name] = value[which]
    return replace(rows, **columns, **others)


def _mapped(numbers: Numbers, local: npt.NDArray[Any]) -> Numbers:
    """int64[n]: the number of each of these indices; -1 stays."""
    result = np.full(len(local), -1, np.int64)
    known = np.flatnonzero(local >= 0)
    result[known] = numbers[local[known]]
    return result


def _running(own: Bools, first: int) -> Numbers:
    """int64[n]: numbers from `first` on where it is own, else -1."""
    numbers = np.cumsum(own, dtype=np.int64)
    numbers += first - 1
    numbers[~own] = -1
    return numbers


def _known(index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return index[index >= 0]
