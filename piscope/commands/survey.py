"""One quick pass over a trace: how long it is, what it holds, which threads run vCPUs.

`piscope check` reports it; `piscope events` needs it to resolve times that are
relative to the trace, and vCPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Payload, RawChunk, Source, Wanted

__all__ = ("ISA_SVM", "ISA_VMX", "CpuSpan", "Survey", "survey")

# KVM_ISA_VMX and KVM_ISA_SVM of arch/x86/kvm/trace.h
ISA_VMX = 1
ISA_SVM = 2

_MOST_THREADS = 1 << 16  # that a damaged trace may claim to run vCPUs


@dataclass(slots=True)
class CpuSpan:
    """What one pCPU recorded: events, and the first and last instant of them."""

    events: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class Survey:
    """What one pass over a trace saw.

    events        in all
    first_ns, last_ns  of any event; None: there are none
    cpus          pCPU -> its events; a pCPU without events is not in it
    vcpu_threads  tid -> vcpu_ids that kvm_entry, kvm_exit or the file gave it
    exits_by_isa  ISA_VMX, ISA_SVM -> the exits whose `isa` field says so
    probe_fields  names of the fields of events that match `survey`'s `probes`
    """

    events: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    cpus: dict[int, CpuSpan] = field(default_factory=dict)
    vcpu_threads: dict[int, set[int]] = field(default_factory=dict)
    exits_by_isa: Counter[int] = field(default_factory=Counter)
    probe_fields: set[str] = field(default_factory=set)

    @property
    def duration_ns(self) -> int:
        """From the first event to the last; 0 where there are fewer than two."""
        if self.first_ns is None or self.last_ns is None:
            return 0
        return self.last_ns - self.first_ns


_LOOKED_AT: dict[str, tuple[str, ...] | None] = {
    "kvm_entry": ("vcpu_id",),
    "kvm_exit": ("vcpu_id", "isa"),
}


def survey(
    source: Source,
    *,
    ignore: tuple[str, ...] = (),
    probes: tuple[str, ...] = (),
    watch: Callable[[Iterator[RawChunk]], Iterator[RawChunk]] = iter,
) -> Survey:
    """Read a whole trace once, decoding next to nothing.

    Afterwards `source.counts` and `source.losses` hold those of this pass. `ignore`
    as in sources.raw.Wanted; `probes` are patterns of events whose field names are
    collected in `probe_fields`. The chunks pass through `watch`.
    """
    result = Survey()
    fields = {**_LOOKED_AT, **dict.fromkeys(probes)}
    wanted = Wanted(fields, others=True, ignore=ignore)
    for chunk in watch(source.chunks(wanted)):
        if len(chunk):
            _add(result, chunk, source.events)
    for tid, vcpu_id in source.info.guest_threads.items():
        result.vcpu_threads.setdefault(tid, set()).add(vcpu_id)
    return result


def _add(result: Survey, chunk: RawChunk, events: list[tuple[str, str]]) -> None:
    result.events += len(chunk)
    order = np.argsort(chunk.cpu, kind="stable")
    cpus, starts = np.unique(chunk.cpu[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    for cpu, start, stop in zip(cpus.tolist(), bounds, bounds[1:], strict=False):
        ts_ns = chunk.ts_ns[order[start:stop]]
        first, last = int(ts_ns.min()), int(ts_ns.max())
        span = result.cpus.get(cpu)
        if span is None:
            result.cpus[cpu] = CpuSpan(stop - start, first, last)
        else:
            span.events += stop - start
            span.first_ns = min(span.first_ns, first)
            span.last_ns = max(span.last_ns, last)
    result.first_ns = min(span.first_ns for span in result.cpus.values())
    result.last_ns = max(span.last_ns for span in result.cpus.values())
    for index, payload in chunk.payload.items():
        name = events[index][1]
        if name not in _LOOKED_AT:
            result.probe_fields.update(payload.columns)
            continue
        vcpu_id, known = _integers(payload, "vcpu_id")
        tid = chunk.tid[payload.rows[known]].astype(np.int64)
        pairs = np.unique(np.stack([tid, vcpu_id.astype(np.int64)]), axis=1)
        for thread, vcpu in pairs.T.tolist():
            if len(result.vcpu_threads) < _MOST_THREADS:
                result.vcpu_threads.setdefault(thread, set()).add(vcpu)
        isa, _ = _integers(payload, "isa")
        for value in (ISA_VMX, ISA_SVM):
            result.exits_by_isa[value] += int((isa == value).sum())


def _integers(payload: Payload, name: str) -> tuple[Array, npt.NDArray[np.bool_]]:
    # The values that the records hold, and which rows they are of.
    values = payload.columns.get(name)
    if values is None or values.dtype.kind not in "iu":
        return np.empty(0, np.int64), np.zeros(len(payload.rows), np.bool_)
    known = payload.valid.get(name, np.ones(len(values), np.bool_))
    return values[known], known
