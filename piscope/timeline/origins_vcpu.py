"""Posts that a vCPU's own thread makes: IPIs, its timer, and what it sends itself.

Between a VM-exit and the next VM-entry, in KVM:

    kvm_exit MSR_WRITE, APIC_WRITE, ...   kvm_apic_ipi   accept, one a target
    kvm_exit VMCALL                       kvm_hypercall  accept, one a target
    kvm_exit PREEMPTION_TIMER                            accept of the timer's vector
    kvm_exit HLT ... kvm_vcpu_wakeup                     accept of a pending timer's

Source: arch/x86/kvm/lapic.c (kvm_apic_send_ipi, apic_timer_expired,
kvm_inject_apic_timer_irqs), arch/x86/kvm/x86.c (vcpu_run, kvm_emulate_hypercall).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.events.vmx_exits import VmxExit
from piscope.origins import Evidence, Origin
from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.origins_chains import (
    Accepts,
    last_before,
    last_of_thread,
    open_handler,
)
from piscope.timeline.origins_targets import TIMER_HANDLERS, wakings

__all__ = ("Decided", "Found", "decide_own")

_KVM_HC_SEND_IPI = 10  # include/uapi/linux/kvm_para.h
_APIC_LVTT, _APIC_TMICT = 0x320, 0x380  # arch/x86/include/asm/apicdef.h
_X2APIC_MSR, _TSC_DEADLINE = 0x800, 0x6E0  # arch/x86/include/asm/msr-index.h
# ICR: delivery mode 10:8, logical 11, level 15, shorthand 19:18. IPI virtualization
# takes fixed, physical, edge, without shorthand (and unicast).
_NOT_FOR_IPIV = 0x700 | 1 << 11 | 1 << 15 | 3 << 18
_WRITES_ICR = (
    VmxExit.MSR_WRITE,
    VmxExit.APIC_ACCESS,
    VmxExit.EPT_VIOLATION,
    VmxExit.EPT_MISCONFIG,
    VmxExit.APIC_WRITE,
)


@dataclass(slots=True)
class Found:
    """What is known of each accept's poster; [n] each.

    cause     int64   row at which hardware would have posted it
    vcpu      int32   its target, -1: not told
    poster    int32   the vCPU whose thread it was, -1: none's, or an interrupt
    msi       bool    delivered by an MSI
    line      bool    by kvm_set_irq
    timer     int64   row of the host's timer interrupt that it lies in, -1: none
    """

    cause: Array
    vcpu: Array
    poster: Array
    msi: Array
    line: Array
    timer: Array


@dataclass(slots=True)
class Decided:
    """The origin of each accept; [n] each."""

    origin: npt.NDArray[np.uint8]
    evidence: npt.NDArray[np.uint8]
    cause: npt.NDArray[np.int64]
    postable: npt.NDArray[np.bool_]

    def decide(self, which: Array, origin: Origin, evidence: Evidence) -> Array:
        """Those of `which` (bool[n]) that nothing was known of until now."""
        fresh: Array = which & (self.evidence == Evidence.NONE)
        self.origin[fresh], self.evidence[fresh] = origin, evidence
        return fresh


def decide_own(
    events: Events, vcpus: Vcpus, accepts: Accepts, found: Found, result: Decided
) -> None:
    """Decide the posts of vCPUs' own threads."""
    at = np.flatnonzero((found.poster >= 0) & (result.evidence == Evidence.NONE))
    if not len(at):
        return
    own = _OwnPosts(events, vcpus, accepts, found, at)
    mask = np.zeros(len(accepts.rows), np.bool_)

    def decide(which: Array, origin: Origin, evidence: Evidence) -> None:
        mask[:] = False
        mask[at[which]] = True
        result.decide(mask, origin, evidence)

    decide(own.in_userspace, Origin.EMULATED, Evidence.VCPU_IN_USERSPACE)
    itself = (own.ipi >= 0) & own.to_self & (own.ipi_targets == 1)
    decide(itself, Origin.SELF, Evidence.SELF_IPI)
    decide(own.ipi >= 0, Origin.IPI, Evidence.APIC_IPI)
    decide(own.line, Origin.EMULATED, Evidence.IRQ_LINE)
    decide(own.hypercall, Origin.IPI, Evidence.HYPERCALL)
    decide(own.by_exit_reason, Origin.IPI, Evidence.EXIT_REASON)
    decide(own.async_pf, Origin.SELF, Evidence.ASYNC_PF)
    for which, evidence in own.timers():
        decide(which, Origin.TIMER, evidence)
    decide(np.ones(len(at), np.bool_), Origin.UNKNOWN, Evidence.OWN_THREAD)
    _place_ipis(result, own, at)


def _place_ipis(result: Decided, own: _OwnPosts, at: Array) -> None:
    """When IPI virtualization would have posted it, and whether it could have."""
    is_ipi = result.origin[at] == Origin.IPI
    by_exit = np.where(own.exit >= 0, own.exit, own.ipi)
    moved = is_ipi & (by_exit >= 0)
    result.cause[at[moved]] = by_exit[moved]
    result.postable[at] = is_ipi & own.for_ipiv


class _OwnPosts:
    """What came before each post in its own thread; [m] each, rows or -1."""

    def __init__(
        self,
        events: Events,
        vcpus: Vcpus,
        accepts: Accepts,
        found: Found,
        at: Array,
    ) -> None:
        self.events, self.vcpus, self.found, self.at = events, vcpus, found, at
        self.rows, self.vec = accepts.rows[at], accepts.vec[at]
        self.poster = found.poster[at]
        numbers = [-1 if v.vcpu_id is None else v.vcpu_id for v in vcpus.rows]
        same_id = np.array(numbers, np.int64)[self.poster] == accepts.apicid[at]
        self.to_self = np.where(
            found.vcpu[at] >= 0, found.vcpu[at] == self.poster, same_id
        )
        self.exit = self._last("kvm_exit")
        self.reason = self._of_exit("exit_reason") & 0xFFFF
        self.reason[self.exit < 0] = -1
        load = events.column("kvm_fpu", "load", np.int64)
        loads = events.rows("kvm_fpu")
        loaded = self._of_rows(loads[load == 1] if load is not None else loads[:0])
        left = self._last("kvm_userspace_exit")
        inside = np.maximum(np.maximum(self.exit, self._last("kvm_entry")), loaded)
        self.in_userspace = left > inside
        if not events.has("kvm_userspace_exit"):
            # what KVM does for its guest needs no MSI of the VMM's
            self.in_userspace = found.msi[at]
        self.line = found.line[at]
        self.ipi, self.ipi_targets, self.for_ipiv = self._ipis()
        calls = events.column("kvm_hypercall", "nr", np.int64)
        rows = events.rows("kvm_hypercall")
        calls_ipi = rows[calls == _KVM_HC_SEND_IPI] if calls is not None else rows
        hyperv = [events.rows(f"kvm_hv_send_ipi{more}") for more in ("", "_ex")]
        sent = np.sort(np.concatenate([calls_ipi, *hyperv]))
        self.hypercall = self._of_rows(sent) > np.maximum(self.exit, 0)
        self.hypercall |= (self.reason == VmxExit.VMCALL) & ~self.to_self
        self.hypercall &= ~found.msi[at]
        self.by_exit_reason = np.isin(self.reason, _WRITES_ICR) & ~self.to_self
        self.by_exit_reason &= ~found.msi[at] & (not events.has("kvm_apic_ipi"))
        self.by_exit_reason &= events.info.events_flags
        only_one = self._sharing(self.exit) == 1
        self.for_ipiv = np.where(
            self.ipi >= 0, self.for_ipiv, self.by_exit_reason & only_one
        )
        self.async_pf = self._last("kvm_async_pf_ready") > np.maximum(self.exit, 0)
        self.async_pf &= self.to_self

    def _last(self, name: str) -> Array:
        return self._of_rows(self.events.rows(name))

    def _of_rows(self, rows: Array) -> Array:
        return last_of_thread(self.events, self.rows, rows)

    def _of_exit(self, field: str) -> Array:
        values = self.events.column("kvm_exit", field, np.int64)
        if values is None:
            return np.full(len(self.rows), -1, np.int64)
        i = np.searchsorted(self.events.rows("kvm_exit"), np.maximum(self.exit, 0))
        result: Array = values[np.minimum(i, len(values) - 1)]
        return result.copy()

    def _sharing(self, cause: Array) -> npt.NDArray[np.int64]:
        """How many posts have the same cause."""
        _, inverse, number = np.unique(cause, return_inverse=True, return_counts=True)
        result: npt.NDArray[np.int64] = number[inverse]
        return result

    def _ipis(self) -> tuple[Array, Array, Array]:
        """kvm_apic_ipi of that vector since the exit, its targets, and for IPIv."""
        events = self.events
        icr = events.column("kvm_apic_ipi", "icr_low", np.int64)
        rows = events.rows("kvm_apic_ipi")
        if icr is None or not len(rows):
            n = len(self.rows)
            return np.full(n, -1, np.int64), np.zeros(n), np.zeros(n, np.bool_)
        i = last_before(events.tid[self.rows], self.rows, events.tid[rows], rows)
        since = np.maximum(self.exit, self._last("kvm_entry"))
        good = (i >= 0) & (rows[i] > since) & ((icr[i] & 0xFF) == self.vec)
        ipi = np.where(good, rows[i], -1)
        targets = self._sharing(ipi)
        for_ipiv = good & ((icr[i] & _NOT_FOR_IPIV) == 0) & (targets == 1)
        return ipi, targets, for_ipiv

    def timers(self) -> list[tuple[Array, Evidence]]:
        """Which are the timer's, and on what evidence, the surest first."""
        events = self.events
        mine = self.to_self & ~self.found.msi[self.at]
        since = np.maximum(self.exit, 0)
        wakeup = self._last("kvm_vcpu_wakeup")
        behind_halt = mine & (wakeup > since)
        ticked = mine & (self._of_rows(events.rows("local_timer_entry")) > since)
        direct = mine & (self.reason == VmxExit.PREEMPTION_TIMER) & ~behind_halt
        armed = mine & (self._of_rows(self._arming()) > since) & ~behind_halt
        woken = behind_halt & self._woken_by_timer(wakeup)
        surely = direct | armed | woken
        # the vector of each vCPU's timer: as it was set, else as it was posted
        key = self.poster.astype(np.int64) << 8 | self.vec
        told = self._vectors_set()
        known = np.unique(np.concatenate([told, key[surely]]))
        scope = events.scope
        if scope is not None:
            if scope.learning:
                mine = surely & scope.own.rows(self.rows)
                scope.learned.timer_keys.update(key[mine].tolist(), told.tolist())
            known = np.array(sorted(scope.learned.timer_keys), np.int64)
        right = np.isin(key, known)
        has_one = np.isin(self.poster, known >> 8)
        vectors = np.unique(known & 0xFF)
        if len(vectors) == 1:
            right |= ~has_one & (self.vec == vectors[0])
        fits = right | ~has_one
        return [
            (direct, Evidence.PREEMPTION_TIMER),
            (armed, Evidence.TIMER_WRITE),
            (woken & fits, Evidence.TIMER_WAKEUP),
            (mine & right, Evidence.TIMER_VECTOR),
            ((behind_halt | ticked) & fits, Evidence.PENDING_TIMER),
        ]

    def _arming(self) -> Array:
        """Rows that write the timer's count or deadline."""
        return np.sort(
            np.concatenate(
                [
                    self._writes("kvm_msr", "ecx", "write", (_TSC_DEADLINE,))[0],
                    self._writes("kvm_apic", "reg", "rw", (_APIC_TMICT,))[0],
                ]
            )
        )

    def _vectors_set(self) -> Array:
        """vCPU << 8 | vector of each write to the timer's LVT entry."""
        parts = [np.empty(0, np.int64)]
        for name, register, is_write, value, wanted in (
            ("kvm_apic", "reg", "rw", "val", _APIC_LVTT),
            ("kvm_msr", "ecx", "write", "data", _X2APIC_MSR + (_APIC_LVTT >> 4)),
        ):
            rows, which = self._writes(name, register, is_write, (wanted,))
            values = self.events.column(name, value, np.int64)
            if values is None or not len(rows):
                continue
            vcpu = self.vcpus.of_tid(self.events.tid[rows]).astype(np.int64)
            key = vcpu << 8 | (values[which] & 0xFF)
            parts.append(key[vcpu >= 0])
        return np.concatenate(parts)

    def _writes(
        self, name: str, register: str, is_write: str, wanted: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Rows of an event that write one of the registers, and their indices."""
        number = self.events.column(name, register, np.int64)
        write = self.events.column(name, is_write, np.int64)
        rows = self.events.rows(name)
        if number is None or write is None:
            return rows[:0], rows[:0]
        which = np.flatnonzero(np.isin(number, wanted) & (write == 1))
        return rows[which], which

    def _woken_by_timer(self, wakeup: Array) -> npt.NDArray[np.bool_]:
        """The halt's last waking was made in a timer interrupt of the host."""
        rows, vcpu = wakings(self.events, self.vcpus)
        last = last_before(self.poster, np.maximum(wakeup, 0), vcpu, rows)
        good = (wakeup >= 0) & (last >= 0)
        good[good] = rows[last[good]] > self.exit[good]
        asked = np.flatnonzero(good)
        handler = open_handler(self.events, rows[last[asked]], TIMER_HANDLERS)
        good[asked] = handler >= 0
        return good
