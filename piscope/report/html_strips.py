"""The vCPUs' timelines in a few MB: what a page draws, zooms into, and tells of.

Few intervals are kept as they are, to the nanosecond. Of many, each vCPU's shares of
time are kept in as many columns as the budget allows, exact to 1/255 of a column. The
page adds up either to the width of its pixels, so that nothing is skipped for being
short. Notifications keep their instants, or their columns.

Numbers are laid out plane by plane (all low bytes, then all next ones...), which
deflates well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from piscope.report.analyzed import Analyzed
from piscope.report.html_figures import KIND_COLORS, KIND_WORDS
from piscope.report.render_words import exit_reason_name
from piscope.report.selection import Selection
from piscope.report.strips import Mark, Strips, column_edges, marks, strips
from piscope.report.summary import Summary
from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind

__all__ = ("BUDGET_BYTES", "Packed", "pack_timeline")

BUDGET_BYTES = 2_500_000
"""Deflated, that the timelines and the notifications may take in a page."""

_MOST_VCPUS = 256  # of which a picture can be drawn
_MOST_INTERVALS = 400_000  # that are kept one by one
_MOST_INSTANTS = 200_000  # likewise, of notifications
_FEWEST_COLUMNS, _FIRST_COLUMNS, _MOST_COLUMNS = 128, 2048, 1 << 18
_MOST_CELLS = 48_000_000  # bytes that a browser unpacks, and adds up for a picture
_CELLS_AT_ONCE = 500_000  # of 80 bytes
_SPAN_BYTES = 6  # of a length in ns: 78 hours
_UNCERTAIN = 0x80  # a bit beside the kind
_SHARE = 255

_MARK_WORDS = {
    Mark.UNLOADED_HOST: "spurious in the host, vCPU not loaded",
    Mark.WRONG_VCPU: "wrong vCPU: another's guest mode",
    Mark.WAKEUP: "wakeup of the blocked vCPU",
    Mark.RESIDUAL: "spurious in the host, vCPU loaded",
    Mark.REMOVED: "not sent under the other policy",
}


@dataclass(frozen=True, slots=True)
class Packed:
    """The timelines as a page carries them.

    about   what the blocks hold and how to read them, plain values
    blocks  deflated, by name
    """

    about: dict[str, Any]
    blocks: dict[str, bytes]


class _Block:
    """Numbers, one array after the other; `about` says where each lies, and why."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self._parts: list[bytes] = []
        self._bytes = 0
        self._deflated: bytes | None = None

    def add(self, values: Array, width: int = 1) -> dict[str, int]:
        """Unsigned numbers of `width` bytes: all low bytes, then all next ones, ..."""
        flat = np.ascontiguousarray(values).reshape(-1).astype("<u8")
        place = {"at": self._bytes, "count": len(flat), "width": width}
        planes = flat.view(np.uint8).reshape(-1, 8)[:, :width].T
        self._parts.append(planes.tobytes())
        self._bytes += len(flat) * width
        return place

    def deflated(self) -> bytes:
        """All of it, compressed; nothing is added after that."""
        if self._deflated is None:
            self._deflated = zlib.compress(b"".join(self._parts), 6)
        return self._deflated


def pack_timeline(
    analysis: Analyzed,
    summary: Summary,
    selection: Selection | None = None,
    *,
    budget_bytes: int = BUDGET_BYTES,
) -> Packed | None:
    """The timelines of the summary's vCPUs; None if it has none, or no time passes.

    Of more vCPUs than a picture can hold those with most entries and puts. `selection`
    narrows the notifications to those of its pCPUs, as it does in the summary.
    """
    timeline = analysis.timeline
    begin_ns, end_ns = timeline.span_ns
    busy = {v.label: v.entries + sum(v.puts.values()) for v in summary.vcpus}
    label = {row.vcpu: row.label for row in timeline.vcpus.rows if row.label in busy}
    busiest = sorted(label, key=lambda vcpu: -busy[label[vcpu]])
    shown = np.array(sorted(busiest[:_MOST_VCPUS]), timeline.intervals.vcpu.dtype)
    if not len(shown) or end_ns <= begin_ns:
        return None
    lives = _lives(analysis, shown, 2 * budget_bytes // 3)
    hits = _notifications(analysis, selection or Selection(), shown, budget_bytes // 3)
    about = {
        "start_ns": str(begin_ns),  # a double does not hold every ns since 1970
        "duration_ns": end_ns - begin_ns,
        "vcpus": [label[vcpu] for vcpu in shown.tolist()],
        "left_out": len(label) - len(shown),
        "kinds": _kinds(),
        "exits": _exit_names(timeline.intervals),
        "lives": lives.about,
        "notifications": hits.about,
    }
    return Packed(about, {"lives": lives.deflated(), "notifications": hits.deflated()})


def _kinds() -> list[dict[str, Any]]:
    """Every kind by its number, with what it takes to draw it."""
    order = list(KIND_COLORS)
    return [
        {
            "name": kind.label,
            "words": KIND_WORDS[kind.label],
            "color": KIND_COLORS[kind.label],
            "order": order.index(kind.label),
        }
        for kind in Kind
    ]


def _exit_names(intervals: Intervals) -> dict[int, str]:
    codes = np.unique(intervals.reason[intervals.reason >= 0]).tolist()
    return {code: exit_reason_name(str(code)) for code in codes}


def _lives(analysis: Analyzed, vcpus: Array, budget_bytes: int) -> _Block:
    """What the vCPUs did: each interval where they fit, else columns."""
    intervals = analysis.timeline.intervals
    begin_ns, end_ns = analysis.timeline.span_ns
    first = np.searchsorted(intervals.vcpu, vcpus, side="left")
    last = np.searchsorted(intervals.vcpu, vcpus, side="right")
    few = int((last - first).sum()) <= _MOST_INTERVALS
    if few and end_ns - begin_ns < 1 << (8 * _SPAN_BYTES):
        own = zip(first.tolist(), last.tolist(), strict=True)
        block = _intervals(intervals, [slice(*ends) for ends in own], begin_ns)
        if len(block.deflated()) <= budget_bytes:
            return block
    cells = len(vcpus) * (len(Kind) + 1)
    most = min(_MOST_COLUMNS, _MOST_CELLS // cells, max(1, (end_ns - begin_ns) // 1000))
    return _finest(
        lambda columns: _columns(analysis, vcpus, columns), most, budget_bytes
    )


def _finest(make: Callable[[int], _Block], most: int, budget_bytes: int) -> _Block:
    """What is made of as many columns as fit into so many bytes; a few fit anyway."""
    columns = max(min(_FIRST_COLUMNS, most), 1)
    best = make(columns)
    while len(best.deflated()) > budget_bytes and columns > _FEWEST_COLUMNS:
        columns //= 2
        best = make(columns)
    while columns < most:
        room = budget_bytes // max(len(best.deflated()), 1)
        if room < 2:
            break
        # of r times as many columns each takes no more than before
        columns = min(columns << (room.bit_length() - 1), most)
        finer = make(columns)
        if len(finer.deflated()) > budget_bytes:
            break
        best = finer
    return best


def _intervals(intervals: Intervals, own: list[slice], begin_ns: int) -> _Block:
    block = _Block()
    i = intervals
    lines = []
    for rows in own:
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


def _columns(analysis: Analyzed, vcpus: Array, columns: int) -> _Block:
    block = _Block()
    timeline = analysis.timeline
    begin_ns, end_ns = timeline.span_ns
    width_ns = np.maximum(np.diff(column_edges(begin_ns, end_ns, columns)), 1)
    lines = []
    for at in range(len(vcpus)):  # one by one: eight bytes a cell become one
        own = strips(timeline, begin_ns, end_ns, columns, vcpus=vcpus[at : at + 1])
        kinds = [_shares(own.time_ns[0, :, kind], width_ns) for kind in Kind]
        lines.append(
            {
                "shares": block.add(np.stack(kinds)),
                "uncertain": block.add(_shares(own.uncertain_ns[0], width_ns)),
            }
        )
    block.about = {"mode": "columns", "columns": columns, "vcpus": lines}
    return block


def _shares(time_ns: Array, width_ns: Array) -> Array:
    """Of each column, in 1/255; what took any time at all is not 0."""
    share = np.rint(time_ns * (_SHARE / width_ns))
    share[(time_ns > 0) & (share == 0)] = 1
    return np.clip(share, 0, _SHARE).astype(np.uint8)


def _notifications(
    analysis: Analyzed, selection: Selection, vcpus: Array, budget_bytes: int
) -> _Block:
    """The notifications under each policy: at their instants where those fit."""
    begin_ns, end_ns = analysis.timeline.span_ns
    findings = [result.findings for result in analysis.results.values()]
    at = findings[0].stimulus if findings else np.empty(0, np.int64)
    if len(at) <= _MOST_INSTANTS:
        instants = np.unique(analysis.stimuli.ts_ns[at])
        ends = [begin_ns, end_ns] if not len(instants) else []
        edges = np.unique(np.concatenate([instants, instants + 1, ends])).astype(
            np.int64
        )
        block = _hits(analysis, selection, vcpus, edges)
        if len(block.deflated()) <= budget_bytes:
            block.about["columns"] = None
            return block

    def make(columns: int) -> _Block:
        edges = column_edges(begin_ns, end_ns, columns)
        return _hits(analysis, selection, vcpus, edges)

    most = min(_MOST_COLUMNS, max(1, (end_ns - begin_ns) // 1000))
    return _finest(make, most, budget_bytes)


def _hits(
    analysis: Analyzed, selection: Selection, vcpus: Array, edges: Array
) -> _Block:
    """For each policy and vCPU the columns with notifications, and how many of which.

    Each is compared with the other of two policies, the one that may remove some.
    """
    block = _Block()
    begin_ns = analysis.timeline.span_ns[0]
    names = list(analysis.results)
    policies = []
    for name in names:
        other = next((n for n in names if n != name), None) if len(names) == 2 else None
        which = selection.of_cpus(analysis.results[name].findings.cpu)
        lines = []
        step = max(1, _CELLS_AT_ONCE // max(len(edges), 1))
        for at in range(0, len(vcpus), step):
            strip = _without_time(vcpus[at : at + step], edges)
            found = marks(analysis, strip, name, other=other, which=which)
            for i in range(len(strip.vcpus)):
                some = np.flatnonzero(found.possible[i].any(axis=1))
                lines.append(
                    {
                        "at_ns": block.add(edges[some] - begin_ns, 8),
                        "width_ns": block.add(np.diff(edges)[some], 8),
                        "certain": block.add(found.certain[i, some].T, 4),
                        "possible": block.add(found.possible[i, some].T, 4),
                        "undated": block.add(found.undated[i, some], 4),
                    }
                )
        policies.append({"name": name, "other": other, "vcpus": lines})
    block.about = {
        "columns": len(edges) - 1,
        "marks": [{"name": m.label, "words": _MARK_WORDS[m]} for m in Mark],
        "policies": policies,
    }
    return block


def _without_time(vcpus: Array, edges: Array) -> Strips:
    none = np.zeros((len(vcpus), 0), np.int64)
    return Strips(vcpus.astype(np.int32), edges, none[:, :, None], none)
