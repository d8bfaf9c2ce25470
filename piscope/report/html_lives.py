"""What the vCPUs did, for a page: each interval where they fit, else columns.

Intervals are held until they are too many; from then on the times of columns are, of
the finest that a page may have. Coarser ones are sums of these.
"""

from __future__ import annotations

import numpy as np

from piscope.report.html_block import Block, finest, most_columns
from piscope.report.own_part import rows_of
from piscope.report.strips import StripsTally, column_edges
from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind

__all__ = ("LivesTally",)

_MOST_INTERVALS = 400_000  # that are kept one by one
_MOST_CELLS = 16_000_000  # of 4 bytes; a browser unpacks them as one each
_SPAN_BYTES = 6  # of a length in ns: 78 hours
_UNCERTAIN = 0x80  # a bit beside the kind
_SHARE = 255


class LivesTally:
    """The lives of some vCPUs, added part by part in the order of the trace.

    It holds 34 bytes for each of so many intervals, or 4 for each cell.
    """

    def __init__(self, vcpus: Array, span_ns: tuple[int, int]) -> None:
        """Numbers of VCPUS, and the first and last instant of the trace."""
        self._vcpus = vcpus
        self._span_ns = span_ns
        self._kept: list[Intervals] = []
        self._grid: StripsTally | None = None
        cells = len(vcpus) * (len(Kind) + 1)
        self._columns = most_columns(span_ns, _MOST_CELLS // max(cells, 1))

    def add(self, intervals: Intervals) -> None:
        """Add a part's own intervals of these vCPUs."""
        if self._grid is not None:
            self._grid.add(intervals)
            return
        self._kept.append(intervals)
        if sum(map(len, self._kept)) > _MOST_INTERVALS:
            self._grid = self._added_up()
            self._kept.clear()

    def block(self, vcpus: Array, budget_bytes: int) -> Block:
        """The lives of some of the vCPUs; the finest that take so many bytes."""
        begin_ns, end_ns = self._span_ns
        if self._grid is None and end_ns - begin_ns < 1 << (8 * _SPAN_BYTES):
            block = _intervals(_in_order(self._kept), vcpus, begin_ns)
            if len(block.deflated()) <= budget_bytes:
                return block
        grid = self._grid or self._added_up()
        lines = np.searchsorted(self._vcpus, vcpus).tolist()
        return finest(
            lambda columns: _columns(grid, lines, self._columns, columns),
            self._columns,
            budget_bytes,
        )

    def _added_up(self) -> StripsTally:
        grid = StripsTally(self._vcpus, column_edges(*self._span_ns, self._columns))
        for intervals in self._kept:
            grid.add(intervals)
        return grid


def _in_order(parts: list[Intervals]) -> Intervals:
    """The rows of all parts, vCPU after vCPU."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([i.vcpu for i in parts]), kind="stable")
    columns = (
        np.concatenate([getattr(i, name) for i in parts])
        for name in Intervals.__slots__
    )
    return rows_of(Intervals(*columns), order)


def _intervals(i: Intervals, vcpus: Array, begin_ns: int) -> Block:
    block = Block()
    lines = []
    firsts = np.searchsorted(i.vcpu, vcpus, side="left").tolist()
    lasts = np.searchsorted(i.vcpu, vcpus, side="right").tolist()
    for rows in map(slice, firsts, lasts):
        unsure = np.where(i.certain[rows], 0, _UNCERTAIN).astype(np.uint8)
        lines.append(
            {
                "first_ns": int((i.start_ns[rows][:1] - begin_ns).sum()),
                "length_ns": block.add(i.end_ns[rows] - i.start_ns[rows], _SPAN_BYTES),
                "kind": block.add(i.kind[rows] | unsure),
                "cpu": block.add(i.cpu[rows] + 1, 2),
                "reason": block.add(i.reason[rows] + 1, 2),
            }
        )
    block.about = {"mode": "intervals", "vcpus": lines}
    return block


def _columns(grid: StripsTally, lines: list[int], of: int, columns: int) -> Block:
    """So many columns, where the grid has `of`."""
    block = Block()
    told = []
    for line in lines:  # one by one: eight bytes a cell become one
        own = grid.strips_of(line).coarser(of // columns)
        width_ns = np.maximum(np.diff(own.edges_ns), 1)
        kinds = [_shares(own.time_ns[0, :, kind], width_ns) for kind in Kind]
        told.append(
            {
                "shares": block.add(np.stack(kinds)),
                "uncertain": block.add(_shares(own.uncertain_ns[0], width_ns)),
            }
        )
    block.about = {"mode": "columns", "columns": columns, "vcpus": told}
    return block


def _shares(time_ns: Array, width_ns: Array) -> Array:
    """Of each column, in 1/255; what took any time at all is not 0."""
    share = np.rint(time_ns * (_SHARE / width_ns))
    share[(time_ns > 0) & (share == 0)] = 1
    return np.clip(share, 0, _SHARE).astype(np.uint8)
