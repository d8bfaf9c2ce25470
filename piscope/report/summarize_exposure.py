"""Windows that are open to a notification: how many, how long, by vCPU and reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piscope.outcomes import Exposure
from piscope.report.own_part import ChosenPart
from piscope.report.summary import Bounds, Exposed
from piscope.sources.raw import Array
from piscope.tables import PutReason, Vcpu

__all__ = ("ExposureTally",)


class ExposureTally:
    """One policy's exposed windows of the selected vCPUs and pCPUs.

    windows     int64[2, vCPUs, put reasons]  exposed for sure, and maybe
    total_ns    int64[2, vCPUs, put reasons]  of these
    longest_ns  int64[vCPUs, put reasons]     of those that may be exposed
    """

    def __init__(self, vcpus: int) -> None:
        shape = (vcpus, len(PutReason))
        self.windows = np.zeros((2, *shape), np.int64)
        self.total_ns = np.zeros((2, *shape), np.int64)
        self.longest_ns = np.zeros(shape, np.int64)

    def add(self, part: ChosenPart, exposure: Exposure) -> None:
        """Count a part's own windows."""
        w = part.analysis.timeline.windows
        shape = self.longest_ns.shape
        for side, open_ones in enumerate((exposure.exposed, exposure.maybe)):
            at = np.flatnonzero(open_ones & part.puts)
            length_ns = w.load_ns[at] - w.put_ns[at]
            key = w.vcpu[at] * len(PutReason) + w.reason[at]
            times = np.bincount(key, minlength=self.longest_ns.size)
            # float64 holds whole ns up to 104 days
            total_ns = np.bincount(key, length_ns, minlength=self.longest_ns.size)
            self.windows[side] += times.reshape(shape)
            self.total_ns[side] += total_ns.astype(np.int64).reshape(shape)
        np.maximum.at(self.longest_ns, (w.vcpu[at], w.reason[at]), length_ns)

    def total(self) -> Exposed:
        """All of them."""
        return self._exposed(np.s_[:, :])

    def by_reason(self) -> dict[str, Exposed]:
        """Those of each put reason that has any."""
        found = {p.label: self._exposed(np.s_[:, p : p + 1]) for p in PutReason}
        return {name: exposed for name, exposed in found.items() if exposed.windows.max}

    def by_vcpu(self, vcpus: Sequence[Vcpu]) -> dict[str, Exposed]:
        """Those of each of these vCPUs, by label."""
        return {
            row.label: self._exposed(np.s_[row.vcpu : row.vcpu + 1, :]) for row in vcpus
        }

    def _exposed(self, where: tuple[slice, slice]) -> Exposed:
        return Exposed(
            windows=_bounds(self.windows[:, *where]),
            duration_ns=_bounds(self.total_ns[:, *where]),
            longest_ns=int(self.longest_ns[where].max(initial=0)),
        )


def _bounds(sides: Array) -> Bounds:
    return Bounds(int(sides[0].sum()), int(sides[1].sum()))
