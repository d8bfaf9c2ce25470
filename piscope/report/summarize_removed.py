"""What the second policy no longer sends, and where that was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.report.analyzed import UNLOADED, removed_by
from piscope.report.bounds_by import BoundsBy, bounds_of
from piscope.report.own_part import ChosenPart
from piscope.report.summary import Bounds, Group, Removed, WindowLine
from piscope.sources.raw import Array
from piscope.tables import PutReason, Vcpu, Windows

__all__ = ("RemovedTally",)

# Windows of one kind that are listed; the rest is in the totals.
_LINES = 10


class RemovedTally:
    """What the last of two policies no longer sends, by where that was."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[Vcpu] = []
        self._slack = 0
        self._total, self._host_irqs = Bounds(), Bounds()
        self._by_vcpu, self._by_reason = BoundsBy(), BoundsBy()
        self._by_cpu, self._by_kind = BoundsBy(), BoundsBy()
        self._closed: dict[int, _Closed] = {}

    def add(self, part: ChosenPart) -> None:
        """Count a part's own findings and windows, if two policies were replayed."""
        analysis, timeline = part.analysis, part.analysis.timeline
        self._names, self._rows = list(analysis.results), timeline.vcpus.rows
        self._slack = timeline.unplaced_losses
        if len(self._names) != 2:
            return
        first, last = analysis.results.values()
        before, after = first.findings, last.findings
        mine = part.findings(before)
        irqs, maybe_irqs = removed_by(before, after, Hit.UNLOADED_HOST)
        self._host_irqs += bounds_of(irqs & mine, maybe_irqs & mine)
        surely, maybe = (x & mine for x in removed_by(before, after, *UNLOADED))
        self._total += bounds_of(surely, maybe)
        vcpu = analysis.stimuli.vcpu[before.stimulus]
        self._by_vcpu.add(vcpu, surely, maybe)
        self._by_reason.add(part.put_reasons(before), surely, maybe)
        self._by_cpu.add(before.cpu, surely, maybe)
        inside = np.flatnonzero(before.window >= 0)
        kind = _kinds(timeline.windows)
        self._by_kind.add(kind[before.window[inside]], surely[inside], maybe[inside])
        closed = first.exposure.maybe & ~last.exposure.exposed & part.puts
        self._add_closed(timeline.windows, kind, np.flatnonzero(closed))

    def _add_closed(self, windows: Windows, kind: Array, at: Array) -> None:
        length_ns = windows.load_ns[at] - windows.put_ns[at]
        kinds, which = np.unique(kind[at], return_inverse=True)
        times = np.bincount(which, minlength=len(kinds))
        total_ns = np.zeros(len(kinds), np.int64)
        np.add.at(total_ns, which, length_ns)
        longest_ns = np.zeros(len(kinds), np.int64)
        np.maximum.at(longest_ns, which, length_ns)
        for n, key in enumerate(kinds.tolist()):
            line = self._closed.setdefault(key, _Closed())
            line.windows += int(times[n])
            line.total_ns += int(total_ns[n])
            line.longest_ns = max(line.longest_ns, int(longest_ns[n]))

    def finish(self) -> Removed | None:
        """What is no longer sent; None: not two policies were replayed."""
        if len(self._names) != 2:
            return None
        by_vm: dict[int | None, Bounds] = {}
        for vcpu, removed in self._by_vcpu.items():
            vm = self._rows[vcpu].vm
            by_vm[vm] = by_vm.get(vm, Bounds()) + removed
        return Removed(
            before=self._names[0],
            after=self._names[1],
            total=_widened(self._total, self._slack),
            host_irqs=_widened(self._host_irqs, self._slack),
            by_vm=_groups(
                ("unknown VM" if vm is None else f"vm{vm}", b)
                for vm, b in by_vm.items()
            ),
            by_vcpu=_groups((self._rows[v].label, b) for v, b in self._by_vcpu.items()),
            by_reason=_groups(
                (PutReason(p).label, b) for p, b in self._by_reason.items()
            ),
            by_cpu=_groups(
                (f"cpu{c}" if c >= 0 else "unknown pCPU", b)
                for c, b in self._by_cpu.items()
            ),
            windows=self._window_lines(),
        )

    def _window_lines(self) -> list[WindowLine]:
        """The kinds of window that the first policy leaves open, and not the last."""
        lines = [
            WindowLine(
                vcpu=self._rows[key >> 32].label,
                reason=PutReason((key >> 24) & 0xFF).label,
                cpu=key & 0xFFFFFF,
                windows=closed.windows,
                removed=self._by_kind[key],
                longest_ns=closed.longest_ns,
                total_ns=closed.total_ns,
            )
            for key, closed in sorted(self._closed.items(), key=lambda item: item[0])
        ]
        lines.sort(key=lambda x: (-x.removed.max, -x.windows, -x.total_ns))
        return lines[:_LINES]


@dataclass(slots=True)
class _Closed:
    """Windows of one kind."""

    windows: int = 0
    total_ns: int = 0
    longest_ns: int = 0


def _kinds(windows: Windows) -> npt.NDArray[np.int64]:
    """int64[windows]: vCPU, put reason and pCPU in one number."""
    key = windows.vcpu.astype(np.int64) << 32
    key |= windows.reason.astype(np.int64) << 24
    key |= windows.put_cpu.astype(np.int64)
    return key


def _groups(found: Iterable[tuple[str, Bounds]]) -> list[Group]:
    groups = (Group(name, removed) for name, removed in found)
    return sorted(groups, key=lambda g: (-g.removed.max, g.name))


def _widened(removed: Bounds, slack: int) -> Bounds:
    # an event that was lost nobody knows where may have hidden or faked one
    return Bounds(max(removed.min - slack, 0), removed.max + slack)
