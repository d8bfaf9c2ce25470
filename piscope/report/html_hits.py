"""The notifications under each policy, for a page: at their instants, else in columns.

Rows are the (vCPU, instant) or (vCPU, column) at which some notification hit something,
with how many of which. While they are too many, columns are joined two by two: how
many rows there are of columns that wide is the same in whatever parts they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.report.html_block import Block, finest, most_columns
from piscope.report.marks import Mark, Marked, marked
from piscope.report.own_part import ChosenPart
from piscope.report.strips import column_edges
from piscope.sources.raw import Array

__all__ = ("HitsTally",)

_MOST_ROWS = 400_000  # of all policies, of 56 bytes

_MARK_WORDS = {
    Mark.UNLOADED_HOST: "spurious in the host, vCPU not loaded",
    Mark.WRONG_VCPU: "wrong vCPU: another's guest mode",
    Mark.WAKEUP: "wakeup of the blocked vCPU",
    Mark.RESIDUAL: "spurious in the host, vCPU loaded",
    Mark.REMOVED: "not sent under the other policy",
}

_CERTAIN = slice(0, len(Mark))
_POSSIBLE = slice(len(Mark), 2 * len(Mark))
_UNDATED = 2 * len(Mark)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Notifications under one policy, by vCPU and place, each place once.

    vcpu    int32[n]
    place   int64[n]  ns on the trace's clock, or a column
    counts  uint32[n, 11]  of each Mark certain, of each possible, undated
    """

    vcpu: npt.NDArray[np.int32]
    place: npt.NDArray[np.int64]
    counts: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.vcpu)

    def of(self, vcpu: int) -> _Rows:
        first, last = np.searchsorted(self.vcpu, (vcpu, vcpu + 1)).tolist()
        own = slice(first, last)
        return _Rows(self.vcpu[own], self.place[own], self.counts[own])

    def in_columns(self, edges_ns: Array) -> _Rows:
        """The same of instants that are in these columns."""
        column = np.searchsorted(edges_ns, self.place, side="right") - 1
        inside = (column >= 0) & (column < len(edges_ns) - 1)
        return _joined(self.vcpu[inside], column[inside], self.counts[inside])

    def coarser(self, by: int) -> _Rows:
        """The same with each `by` columns as one."""
        return self if by == 1 else _joined(self.vcpu, self.place // by, self.counts)

    def and_more(self, more: _Rows) -> _Rows:
        """These and those, in one."""
        return _joined(
            np.concatenate((self.vcpu, more.vcpu)),
            np.concatenate((self.place, more.place)),
            np.concatenate((self.counts, more.counts)),
        )


def _joined(vcpu: Array, place: Array, counts: Array) -> _Rows:
    order = np.lexsort((place, vcpu))
    vcpu, place = vcpu[order], place[order]
    head = np.ones(len(order), np.bool_)
    head[1:] = (vcpu[1:] != vcpu[:-1]) | (place[1:] != place[:-1])
    heads = np.flatnonzero(head)
    if len(heads) == len(order):
        return _Rows(vcpu, place, counts[order])
    sums = np.add.reduceat(counts[order], heads, axis=0)
    return _Rows(vcpu[heads], place[heads], sums)


def _rows_of(found: Marked) -> _Rows:
    bits = np.arange(len(Mark), dtype=np.uint8)
    counts = np.empty((len(found.vcpu), 2 * len(Mark) + 1), np.uint32)
    counts[:, _CERTAIN] = found.certain[:, None] >> bits & 1
    counts[:, _POSSIBLE] = found.possible[:, None] >> bits & 1
    counts[:, _UNDATED] = found.undated
    return _joined(found.vcpu, found.ts_ns, counts)


class HitsTally:
    """The notifications of a trace, added part by part."""

    def __init__(self, span_ns: tuple[int, int]) -> None:
        """Between the first and last instant of the trace."""
        self._span_ns = span_ns
        self._columns: int | None = None  # None: at their instants
        self._rows: dict[str, _Rows] = {}
        self._others: dict[str, str | None] = {}

    def add(self, part: ChosenPart) -> None:
        """Count a part's own ones that hit something.

        Each is compared with the other of two policies, the one that may remove some.
        """
        names = list(part.analysis.results)
        for name in names:
            other = next((n for n in names if n != name), None)
            self._others[name] = other = other if len(names) == 2 else None
            rows = _rows_of(marked(part, name, other=other))
            if self._columns is not None:
                rows = rows.in_columns(self._edges_ns(self._columns))
            so_far = self._rows.get(name)
            self._rows[name] = rows if so_far is None else so_far.and_more(rows)
        while sum(map(len, self._rows.values())) > _MOST_ROWS and self._columns != 1:
            self._columns, self._rows = self._coarser()

    def block(self, vcpus: Array, budget_bytes: int) -> Block:
        """Those of some of the vCPUs; at the finest that takes so many bytes."""
        columns, rows = self._columns, self._rows
        if columns is None:
            block = self._block(rows, vcpus, None)
            if len(block.deflated()) <= budget_bytes:
                return block
            columns, rows = self._coarser()

        def make(fewer: int) -> Block:
            joined = {k: r.coarser(columns // fewer) for k, r in rows.items()}
            return self._block(joined, vcpus, fewer)

        return finest(make, columns, budget_bytes)

    def _block(
        self, rows: dict[str, _Rows], vcpus: Array, columns: int | None
    ) -> Block:
        block = Block()
        begin_ns = self._span_ns[0]
        edges_ns = None if columns is None else self._edges_ns(columns)
        policies = []
        for name, of_all in rows.items():
            lines = []
            for vcpu in vcpus.tolist():
                own = of_all.of(vcpu)
                at_ns, width_ns = own.place, np.ones(len(own), np.int64)
                if edges_ns is not None:
                    at_ns = edges_ns[own.place]
                    width_ns = edges_ns[own.place + 1] - at_ns
                lines.append(
                    {
                        "at_ns": block.add(at_ns - begin_ns, 8),
                        "width_ns": block.add(width_ns, 8),
                        "certain": block.add(own.counts[:, _CERTAIN].T, 4),
                        "possible": block.add(own.counts[:, _POSSIBLE].T, 4),
                        "undated": block.add(own.counts[:, _UNDATED], 4),
                    }
                )
            other = self._others[name]
            policies.append({"name": name, "other": other, "vcpus": lines})
        block.about = {
            "columns": columns,
            "marks": [{"name": m.label, "words": _MARK_WORDS[m]} for m in Mark],
            "policies": policies,
        }
        return block

    def _edges_ns(self, columns: int) -> npt.NDArray[np.int64]:
        return column_edges(*self._span_ns, columns)

    def _coarser(self) -> tuple[int, dict[str, _Rows]]:
        """The finest columns that are coarser than what there is."""
        if self._columns is None:
            columns = most_columns(self._span_ns)
            edges_ns = self._edges_ns(columns)
            return columns, {k: r.in_columns(edges_ns) for k, r in self._rows.items()}
        return self._columns // 2, {k: r.coarser(2) for k, r in self._rows.items()}
