"""The exits that took longest against their reason's median, kept part by part.

The medians are known at last only. But of one class the longest come first whatever
its median is, so no more of each are kept than are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from piscope.report.exit_budget import by_part, spent
from piscope.report.exit_report import BUDGET_PARTS, Outlier
from piscope.sources.raw import Array
from piscope.tables import Intervals, Vcpus

__all__ = ("OutliersTally",)

Numbers = npt.NDArray[np.int64]

_KEPT = ("key", "vcpu", "ts_ns", "cpu", "dur_ns")


class OutliersTally:
    """The `most` longest exits of each class; of equals the earliest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = {name: np.empty(0, np.int64) for name in _KEPT}
        self._spent_ns = np.empty((0, len(BUDGET_PARTS)), np.int64)

    def add(
        self,
        intervals: Intervals,
        key: Numbers,
        vcpu: Array,
        ts_ns: Array,
        cpu: Array,
        dur_ns: Array,
    ) -> None:
        """Add exits, in time order, of a part with these intervals.

        `key` tells the class (exit_times.class_keys), `dur_ns` the time to the entry.
        """
        if not self._most:
            return
        new = dict(zip(_KEPT, (key, vcpu, ts_ns, cpu, dur_ns), strict=True))
        at = self._longest(key, dur_ns)
        new = {name: values[at].astype(np.int64) for name, values in new.items()}
        end_ns = new["ts_ns"] + new["dur_ns"]
        spent_ns = spent(intervals, new["vcpu"], new["ts_ns"], end_ns)
        both = {name: np.append(self._kept[name], new[name]) for name in _KEPT}
        at = self._longest(both["key"], both["dur_ns"])
        self._kept = {name: values[at] for name, values in both.items()}
        self._spent_ns = np.concatenate([self._spent_ns, spent_ns])[at]

    def _longest(self, key: Numbers, dur_ns: Array) -> Numbers:
        """int64[m], ascending: the places of each class's longest."""
        order = np.lexsort((-dur_ns, key))
        key = key[order]
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        count = np.diff(np.append(first, len(key)))
        rank = np.arange(len(key)) - np.repeat(first, count)
        return np.sort(order[rank < self._most])

    def finish(
        self, vcpus: Vcpus, reason_of: Callable[[int], tuple[str, int]]
    ) -> list[Outlier]:
        """The most extreme first; `reason_of` a key: its name and median in ns."""
        kept = self._kept
        reasons = [reason_of(key) for key in kept["key"].tolist()]
        medians_ns = np.array([median_ns for _, median_ns in reasons], np.float64)
        times = kept["dur_ns"] / np.maximum(medians_ns, 1)
        at = np.argsort(-times, kind="stable")[: self._most]
        return [
            Outlier(
                label=vcpus.rows[kept["vcpu"][n]].label,
                reason=reasons[n][0],
                ts_ns=int(kept["ts_ns"][n]),
                cpu=int(kept["cpu"][n]),
                dur_ns=int(kept["dur_ns"][n]),
                times_median=float(times[n]),
                time_ns=by_part(self._spent_ns[n]),
            )
            for n in at.tolist()
        ]
