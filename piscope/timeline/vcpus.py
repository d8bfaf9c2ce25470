"""Which threads are vCPUs, of which VM, and on what evidence (VCPUS).

A vcpu_id names a vCPU within its VM only; the thread is what identifies it on a
host. A VM is a process (tgid) where the trace tells; where it does not, vCPUs
belong to one VM as long as no two of them share a vcpu_id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from piscope.tables import Events, Vcpu, Vcpus

__all__ = ("find_vcpus",)

# include/linux/threads.h, for 64 bits; a greater number is a damaged record
PID_MAX_LIMIT = 4 << 20

_COMM = re.compile(r"CPU (\d+)/(?:KVM|TCG)")


def find_vcpus(events: Events) -> Vcpus:
    """The vCPU threads of a trace, in the order of (VM, vcpu_id, tid).

    A thread is a vCPU if it entered or left a guest (kvm_entry, kvm_exit), if the
    trace's GUEST option names it, or by its comm ("CPU 3/KVM").
    """
    info = events.info
    evidence: dict[int, str] = {}
    vcpu_id: dict[int, int] = {}
    for tid, number in info.guest_threads.items():
        evidence[tid], vcpu_id[tid] = "guest-option", number
    for name in ("kvm_entry", "kvm_exit"):
        _by_event(events, name, evidence, vcpu_id)
    # A thread that a vCPU's thread created (kvm-nx-lpage-recovery) bears its name until
    # it renames itself: a name tells nothing where a vCPU of that number is known.
    taken = {(info.tgids.get(tid), number) for tid, number in vcpu_id.items()}
    named = {
        tid: int(match[1])
        for tid, comm in info.comms.items()
        if tid not in evidence and (match := _COMM.match(comm)) is not None
    }
    for tid in _present(events, named):
        if (info.tgids.get(tid), named[tid]) not in taken:
            evidence[tid], vcpu_id[tid] = "comm", named[tid]
    # 0 is the idle task, where a trace lost its thread ids
    tids = sorted(tid for tid in evidence if 0 < tid <= PID_MAX_LIMIT)

    vm_of, known = _vms(tids, vcpu_id, info.tgids, info.guest_name)
    key = {t: (_rank(vm_of.get(t)), _rank(vcpu_id.get(t)), t) for t in tids}
    tids.sort(key=lambda t: key[t])
    labels = _labels(tids, vm_of, vcpu_id)
    rows = [
        Vcpu(
            vcpu=i,
            tid=tid,
            tgid=info.tgids.get(tid),
            vm=vm_of.get(tid),
            vcpu_id=vcpu_id.get(tid),
            comm=info.comms.get(tid),
            evidence=evidence[tid],
            label=labels[tid],
        )
        for i, tid in enumerate(tids)
    ]
    by_tid = np.full(max(tids, default=0) + 2, -1, np.int32)
    for row in rows:
        by_tid[row.tid] = row.vcpu
    return Vcpus(rows, known, by_tid)


def _present(events: Events, tids: Iterable[int]) -> list[int]:
    """Those of the threads that traced an event, ascending."""
    asked = np.array([t for t in tids if 0 < t <= PID_MAX_LIMIT], np.int32)
    if not len(asked):
        return []
    found: list[int] = np.unique(events.tid[np.isin(events.tid, asked)]).tolist()
    return found


def _labels(
    tids: list[int], vm_of: dict[int, int], vcpu_id: dict[int, int]
) -> dict[int, str]:
    labels = {}
    for tid in tids:
        name = f"vcpu{vcpu_id.get(tid, '?')}"
        if tid in vm_of:
            labels[tid] = f"vm{vm_of[tid]}/{name}"
        else:
            labels[tid] = f"{name}[{tid}]"
    shared = Counter(labels.values())
    return {
        tid: label if shared[label] == 1 else f"{label}[{tid}]"
        for tid, label in labels.items()
    }


def _rank(value: int | None) -> int:
    return 1 << 40 if value is None else value


def _by_event(
    events: Events, name: str, evidence: dict[int, str], vcpu_id: dict[int, int]
) -> None:
    tids = events.tid[events.rows(name)]
    possible = (tids > 0) & (tids <= PID_MAX_LIMIT)
    numbers = events.column(name, "vcpu_id", np.int64)
    if numbers is not None:
        known = np.flatnonzero(possible & events.valid(name, "vcpu_id"))[::-1]
        # written backwards, so that of several the first one stays
        first = np.zeros(int(tids[known].max(initial=0)) + 1, np.int64)
        first[tids[known]] = numbers[known]
        for tid in np.flatnonzero(np.bincount(tids[known])).tolist():
            vcpu_id.setdefault(tid, int(first[tid]))
    for tid in np.flatnonzero(np.bincount(tids[possible])).tolist():
        evidence.setdefault(tid, name)


def _vms(
    tids: list[int],
    vcpu_id: dict[int, int],
    tgids: dict[int, int],
    guests: dict[int, str],
) -> tuple[dict[int, int], bool]:
    """tid -> number of its VM, and whether VMs are known at all."""
    keys: dict[int, object] = {
        t: guests[t] if t in guests else tgids[t]
        for t in tids
        if t in guests or t in tgids
    }
    if len(keys) == len(tids):
        first: dict[object, int] = {}
        for tid in tids:
            first.setdefault(keys[tid], len(first))
        return {t: first[keys[t]] for t in tids}, True
    numbers = [vcpu_id[t] for t in tids if t in vcpu_id]
    if len(numbers) == len(tids) == len(set(numbers)):
        return dict.fromkeys(tids, 0), False
    return {}, False
