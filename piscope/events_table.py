"""EVENTS, the table that the sources' rows become: by columns, in time order.

Read beside `tables`: the same rules hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Loss, Payload, TraceInfo
from piscope.whole import Scope

__all__ = ("Events",)

# NR_CPUS is smaller everywhere.
_MOST_CPUS = 1 << 16


@dataclass(slots=True)
class Events:
    """All wanted events of a trace, by time, then pCPU, then order in its buffer.

    ts_ns    int64[n]  trace clock
    cpu      int32[n]
    tid      int32[n]  common_pid
    flags    uint8[n]  common_flags
    event    uint16[n] index into `names`
    names    (system, name) of each event
    payload  event index -> decoded fields; rows ascending, int32 while they fit
    info, losses, counts   as the source gave them
    markers  what was written to trace_marker for piscope, which is no event of the
             host: (ts_ns, text) each, in time order
    kept     events whose payloads are still there; None: all
    scope    of a part of a trace; None: it is the whole
    """

    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    event: npt.NDArray[np.uint16]
    names: list[tuple[str, str]]
    payload: dict[int, Payload]
    info: TraceInfo
    losses: list[Loss] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    markers: list[tuple[int, str]] = field(default_factory=list)
    kept: frozenset[str] | None = None
    scope: Scope | None = None

    def __len__(self) -> int:
        return len(self.ts_ns)

    @property
    def cpus(self) -> list[int]:
        """The pCPUs that traced an event, ascending."""
        if not len(self) or self.cpu.min() < 0 or self.cpu.max() >= _MOST_CPUS:
            numbers: list[int] = np.unique(self.cpu).tolist()  # slow, but for any
            return numbers
        present = np.zeros(_MOST_CPUS, np.bool_)
        present[self.cpu] = True
        found: list[int] = np.flatnonzero(present).tolist()
        return found

    def keep_only(self, *names: str) -> None:
        """Let go of the rows and fields of all other events, to free their memory.

        Whoever asks for them afterwards gets a LookupError, and no empty answer.
        """
        self.payload = {
            index: payload
            for index, payload in self.payload.items()
            if self.names[index][1] in names
        }
        self.kept = frozenset(names)

    def has(self, name: str) -> bool:
        """Whether the trace holds at least one event of that name."""
        return any(
            count and key.rpartition(":")[2] == name
            for key, count in self.counts.items()
        )

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        """int64[m]: ascending rows of every event of that name, in any system."""
        found = [p.rows for p in self._payloads(name)]
        if not found:
            return np.empty(0, np.int64)
        if len(found) == 1:
            return found[0].astype(np.int64, copy=False)
        return np.sort(np.concatenate(found)).astype(np.int64, copy=False)

    def column(self, name: str, column: str, dtype: npt.DTypeLike) -> Array | None:
        """dtype[m]: a field of the rows `rows(name)` gives; None: no event has it.

        Where a single record lacks the field the value is 0; see `valid`.
        """
        payloads = self._payloads(name)
        if not any(column in p.columns for p in payloads):
            return None
        parts = [
            p.columns[column].astype(dtype, copy=False)
            if column in p.columns
            else np.zeros(len(p.rows), dtype)
            for p in payloads
        ]
        return _in_row_order(payloads, parts)

    def valid(self, name: str, column: str) -> npt.NDArray[np.bool_]:
        """bool[m]: for which of `rows(name)` the field was in the record."""
        payloads = self._payloads(name)
        if not payloads:
            return np.empty(0, np.bool_)
        parts = [
            p.valid.get(column, np.ones(len(p.rows), np.bool_))
            if column in p.columns
            else np.zeros(len(p.rows), np.bool_)
            for p in payloads
        ]
        return _in_row_order(payloads, parts)

    def _payloads(self, name: str) -> list[Payload]:
        if self.kept is not None and name not in self.kept:
            raise LookupError(f"the payloads of {name} were let go of")
        return [p for index, p in self.payload.items() if self.names[index][1] == name]


def _in_row_order(payloads: list[Payload], parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([p.rows for p in payloads]), kind="stable")
    result: Array = np.concatenate(parts)[order]
    return result
