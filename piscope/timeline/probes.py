"""Events that users set on vmx_vcpu_pi_load and vmx_vcpu_pi_put, and what they read.

A probe may be bare (when and where), or carry the descriptor's control word and
PIR at entry, at return, or both. What an event carries is taken from its name and
the names of its fields; nothing is assumed of offsets.

    ctl, 64 bits at PID+32:  [ NDST 63:32 |  | NV 23:16 |  | SN 1 | ON 0 ]

Source: arch/x86/include/asm/posted_intr.h (struct pi_desc).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus

__all__ = (
    "POSTED_INTR_WAKEUP_VECTOR",
    "Probe",
    "find_probes",
    "is_probe",
    "probe_columns",
    "probed_vcpus",
)

POSTED_INTR_WAKEUP_VECTOR = 0xF1  # arch/x86/include/asm/irq_vectors.h

_LOAD = re.compile(r"(?:^|_)pi_load(?P<done>_(?:done|ret|return|exit).*)?$", re.I)
_PUT = re.compile(r"(?:^|_)pi_put(?P<done>_(?:done|ret|return|exit).*)?$", re.I)


@dataclass(frozen=True, slots=True)
class Probe:
    """One event on pi_load or pi_put: `what` is "load" or "put", `at_return` or not."""

    event: str
    what: str
    at_return: bool


@dataclass(slots=True)
class ProbeColumns:
    """What the probes of one kind and place read, by time.

    rows       int64[m]  rows of EVENTS
    ctl        uint64[m] control word; None: no probe of this kind reads it
    pir        uint64[m, 4]; None likewise
    preempted  uint8[m], blocking uint8[m] (0 or 1); None likewise
    """

    rows: npt.NDArray[np.int64]
    ctl: npt.NDArray[np.uint64] | None
    pir: npt.NDArray[np.uint64] | None
    preempted: npt.NDArray[np.uint8] | None
    blocking: npt.NDArray[np.uint8] | None


def is_probe(name: str) -> bool:
    """Whether an event of that name is one on pi_load or pi_put."""
    return bool(_LOAD.search(name) or _PUT.search(name))


def find_probes(events: Events) -> list[Probe]:
    """The probes on pi_load and pi_put that a trace holds events of."""
    found = []
    for system, name in events.names:
        if not events.counts.get(f"{system}:{name}"):
            continue
        for what, pattern in (("load", _LOAD), ("put", _PUT)):
            match = pattern.search(name)
            if match:
                found.append(Probe(name, what, match["done"] is not None))
    return found


def probed_vcpus(events: Events, vcpus: Vcpus, probe: Probe) -> npt.NDArray[np.int32]:
    """int32[m]: the vCPU that each of a probe's rows tells of, -1: not known.

    Mostly the one whose thread ran, but not always: the VMM's main thread loads each
    vCPU to create it, and the last thread to leave loads all of them to destroy the
    VM (kvm_unload_vcpu_mmu). The probe's field `vcpu` tells, be it the vcpu_id or the
    address of struct kvm_vcpu; without it only the thread does.
    """
    rows = events.rows(probe.event)
    lane = vcpus.of_tid(events.tid[rows])
    value = events.column(probe.event, "vcpu", np.int64)
    if value is None or not len(rows) or not len(vcpus):
        return lane
    known = events.valid(probe.event, "vcpu")
    owner: dict[int, int] = {}
    if events.scope is None:
        pairs, count = np.unique(
            np.stack([lane[known], value[known]]), axis=1, return_counts=True
        )
    else:  # of the whole trace
        told = events.scope.whole.probe_values.get(probe.event, {})
        tid_of = np.array([tid for tid, _ in told], np.int32)
        both = np.stack(
            [vcpus.of_tid(tid_of), np.array([v for _, v in told], np.int64)]
        )
        pairs, which = np.unique(both, axis=1, return_inverse=True)
        count = np.bincount(which.reshape(-1), np.array(list(told.values())))
    if (pairs[1] >> 32 == 0).all():
        own_value = np.array(
            [-1 if v.vcpu_id is None else v.vcpu_id for v in vcpus.rows]
        )
        for vcpu_id in np.unique(pairs[1]).tolist():
            candidates = vcpus.candidates(vcpu_id)
            owner[vcpu_id] = candidates[0] if len(candidates) == 1 else -1
    else:
        # an address: a thread's own vCPU is the one that it loads most
        own_value = np.full(len(vcpus), -1, np.int64)
        for i in np.argsort(count, kind="stable").tolist():
            if pairs[0, i] >= 0:
                own_value[pairs[0, i]] = pairs[1, i]
        owner = {int(own_value[v]): v for v in range(len(vcpus))}
    other = known & (
        (lane < 0) | ((own_value[lane] != -1) & (value != own_value[lane]))
    )
    values, inverse = np.unique(value[other], return_inverse=True)
    found = np.array([owner.get(v, -1) for v in values.tolist()], np.int32)
    result = lane.copy()
    result[other] = found[inverse]
    return result


def probe_columns(
    events: Events, probes: list[Probe], what: str, at_return: bool
) -> ProbeColumns | None:
    """All events of the probes of one kind and place, in time order; None: no probe."""
    names = [p.event for p in probes if p.what == what and p.at_return == at_return]
    if not names:
        return None
    # an event that this part of a trace does not hold says nothing of the others
    names = [name for name in names if len(events.rows(name))] or names[:1]
    rows = np.concatenate([events.rows(n) for n in names])
    order = np.argsort(rows, kind="stable")

    def joined(field: str, dtype: npt.DTypeLike) -> Array | None:
        parts = [events.column(n, field, dtype) for n in names]
        if any(p is None for p in parts):
            return None
        result: Array = np.concatenate([p for p in parts if p is not None])[order]
        return result

    words = [joined(f"pir{i}", np.uint64) for i in range(4)]
    pir = None
    if all(w is not None for w in words):
        pir = np.stack([w for w in words if w is not None], axis=1)
    preempted, blocking = joined("preempted", np.uint64), joined("blocking", np.uint64)
    return ProbeColumns(
        rows=rows[order],
        ctl=joined("ctl", np.uint64),
        pir=pir,
        preempted=None if preempted is None else (preempted != 0).astype(np.uint8),
        blocking=None if blocking is None else (blocking != 0).astype(np.uint8),
    )
