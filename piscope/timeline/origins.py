"""Who posted each interrupt that KVM accepted: from the context on that pCPU.

    interrupt   irq_handler_entry vfio-msix[0](0000:3b:00.0)   the device
                local_timer_entry, hrtimer_expire_entry        the APIC timer
    thread      vhost-N                                        vhost
                kworker/N                                      an irqfd's work
                kvm-pit/N, any other                           an emulated device
                a vCPU's                                       origins_vcpu.py

Deferred work is followed to who queued it, where workqueue events tell.

Source: drivers/vfio/pci/vfio_pci_intrs.c (vfio_msihandler), virt/kvm/eventfd.c
(irqfd_wakeup, irqfd_inject), drivers/vhost/vhost.c.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.origins import Evidence, Origin
from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.origins_chains import (
    ANY_IRQ,
    IRQS_OFF,
    Accepts,
    contexts,
    last_before,
    open_handler,
    over_between,
)
from piscope.timeline.origins_targets import TIMER_HANDLERS
from piscope.timeline.origins_vcpu import Decided, Found, decide_own

__all__ = ("Handlers", "Origins", "find_handlers", "find_origins")

_IRQ_HANDLERS = (("irq_handler_entry", "irq_handler_exit"),)
_VFIO = re.compile(r"vfio-(?:msix?|intx|irq)\b")
_VFIO_THREAD = re.compile(r"irq/(\d{1,9})-vfio")
_MESSAGE = re.compile(r"vfio-msix?\b")
_KERNEL = re.compile(
    r"(?:ksoftirqd|migration|rcu\w*|cpuhp|irq|idle_inject)/|swapper|<idle>|<\.\.\.>"
)


@dataclass(slots=True)
class Handlers:
    """The context that each accept is to be understood in; [n] each.

    who       int64  row whose context it is: the accept, or what queued its work
    entry     int64  irq_handler_entry of the handler that it lies in, -1: none
    host_irq  int32  the vfio interrupt, -1: none
    device    int32  its name as an index into `devices`, -1: none
    work      bool   `who` is not the accept, or a kworker ran irqfd_inject
    """

    who: npt.NDArray[np.int64]
    entry: npt.NDArray[np.int64]
    host_irq: npt.NDArray[np.int32]
    device: npt.NDArray[np.int32]
    devices: list[str]
    work: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Origins:
    """The origin of each accept, as in POSTS; [n] each."""

    origin: npt.NDArray[np.uint8]
    evidence: npt.NDArray[np.uint8]
    cause: npt.NDArray[np.int64]
    postable: npt.NDArray[np.bool_]


def find_handlers(events: Events, accepts: Accepts) -> Handlers:
    """In which vfio interrupt each accept was made, or its work queued."""
    who, work = _queued_by(events, accepts)
    n = len(who)
    entry = open_handler(events, who, _IRQ_HANDLERS)
    host_irq, device = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    devices: list[str] = []
    numbers = events.column("irq_handler_entry", "irq", np.int64)
    names = events.column("irq_handler_entry", "name", object)
    inside = np.flatnonzero(entry >= 0)
    if len(inside) and numbers is not None and names is not None:
        at = np.searchsorted(events.rows("irq_handler_entry"), entry[inside])
        texts = [_text(name) for name in names[at]]
        devices = sorted(set(texts))
        place = {name: i for i, name in enumerate(devices)}
        device[inside] = [place[name] for name in texts]
        vfio = np.array([_VFIO.match(name) is not None for name in texts], np.bool_)
        host_irq[inside[vfio]] = numbers[at[vfio]]
    # with threadirqs the handler is a thread, named by the interrupt
    in_thread = (events.flags[who] & ANY_IRQ) == 0
    for tid in np.unique(events.tid[who[in_thread]]).tolist():
        named = _VFIO_THREAD.match(events.info.comms.get(tid, ""))
        if named:
            host_irq[in_thread & (events.tid[who] == tid)] = int(named[1])
    return Handlers(who, entry, host_irq, device, devices, work)


def find_origins(
    events: Events,
    vcpus: Vcpus,
    accepts: Accepts,
    started: Array,
    vcpu: Array,
    msi: Array,
    unicast: Array,
    handlers: Handlers,
) -> Origins:
    """Decide who posted; `started` is where each post's chain began, `vcpu` its target.

    `msi`: it was delivered by an MSI; `unicast`: by one that had no other target.
    """
    n = len(accepts.rows)
    result = Decided(
        origin=np.zeros(n, np.uint8),
        evidence=np.zeros(n, np.uint8),
        cause=started.copy(),
        postable=np.zeros(n, np.bool_),
    )
    if not n:
        return _made(result)
    who, flags = handlers.who, events.flags[handlers.who]
    told = events.info.events_flags
    in_irq = ((flags & ANY_IRQ) != 0) & told
    timer = open_handler(events, who, TIMER_HANDLERS)
    line = _irq_lines(events, accepts, msi)

    threaded = (handlers.host_irq >= 0) & (handlers.entry < 0)
    is_vfio = (handlers.host_irq >= 0) & ~threaded
    result.decide(is_vfio, Origin.VFIO, Evidence.VFIO_IRQ)
    result.decide(threaded, Origin.VFIO, Evidence.VFIO_IRQ_THREAD)
    result.decide(handlers.entry >= 0, Origin.UNKNOWN, Evidence.OTHER_IRQ)
    result.decide((timer >= 0) & ~msi, Origin.TIMER, Evidence.TIMER_IRQ)
    result.decide(in_irq, Origin.UNKNOWN, Evidence.IRQ_CONTEXT)
    result.cause[is_vfio] = handlers.entry[is_vfio]

    poster = np.where(
        result.evidence == Evidence.NONE, vcpus.of_tid(events.tid[who]), -1
    )
    found = Found(result.cause, vcpu, poster, msi, line, timer)
    _decide_threads(events, vcpus, accepts, found, handlers, result)
    decide_own(events, vcpus, accepts, found, result)
    _mark_postable(events, handlers, unicast, result)
    return _made(result)


def _made(result: Decided) -> Origins:
    return Origins(result.origin, result.evidence, result.cause, result.postable)


def _decide_threads(
    events: Events,
    vcpus: Vcpus,
    accepts: Accepts,
    found: Found,
    handlers: Handlers,
    result: Decided,
) -> None:
    """Posts of threads that are no vCPU's, by what the thread is."""
    open_ = (result.evidence == Evidence.NONE) & (found.poster < 0)
    tids, which = np.unique(events.tid[handlers.who], return_inverse=True)
    vm_tgids = {v.tgid for v in vcpus.rows if v.tgid is not None}
    kinds = [_kind(events, tid, vm_tgids) for tid in tids.tolist()]
    kind = np.array(kinds, np.uint8)[which.reshape(-1)]

    def decide(what: _Thread, also: Array | bool, evidence: Evidence) -> None:
        result.decide(open_ & (kind == what) & also, _POSTER[what], evidence)

    irqs_off = (events.flags[accepts.rows] & IRQS_OFF) != 0
    irqs_off &= events.info.events_flags
    decide(_Thread.VHOST, True, Evidence.VHOST_THREAD)
    decide(_Thread.OTHER_PROCESS, True, Evidence.OTHER_PROCESS)
    decide(_Thread.KWORKER, handlers.work, Evidence.IRQFD_INJECT)
    decide(_Thread.KWORKER, True, Evidence.KWORKER)
    decide(_Thread.PIT, True, Evidence.PIT_THREAD)
    decide(_Thread.VMM, found.msi & irqs_off, Evidence.EVENTFD)
    decide(_Thread.VMM, found.msi, Evidence.MSI)
    decide(_Thread.VMM, found.line, Evidence.IRQ_LINE)
    decide(_Thread.VMM, True, Evidence.USER_THREAD)


class _Thread(IntEnum):
    """What a thread that is no vCPU's is."""

    UNKNOWN = 0
    VHOST = 1
    OTHER_PROCESS = 2
    KWORKER = 3
    PIT = 4
    VMM = 5


_POSTER = {
    _Thread.VHOST: Origin.VHOST,
    _Thread.OTHER_PROCESS: Origin.VHOST,
    _Thread.KWORKER: Origin.IRQFD,
    _Thread.PIT: Origin.EMULATED,
    _Thread.VMM: Origin.EMULATED,
}


def _kind(events: Events, tid: int, vm_tgids: Set[int]) -> _Thread:
    comm = events.info.comms.get(tid, "")
    for prefix, kind in (
        ("vhost-", _Thread.VHOST),
        ("kworker/", _Thread.KWORKER),
        ("kvm-pit/", _Thread.PIT),
    ):
        if comm.startswith(prefix):
            return kind
    if tid == 0 or not comm or _KERNEL.match(comm):
        return _Thread.UNKNOWN
    tgid = events.info.tgids.get(tid)
    if vm_tgids and tgid is not None and tgid not in vm_tgids:
        return _Thread.OTHER_PROCESS
    return _Thread.VMM


def _mark_postable(
    events: Events, handlers: Handlers, unicast: Array, result: Decided
) -> None:
    """VT-d posts an MSI that has one destination; what IPIs need is decided before."""
    result.postable |= unicast
    if events.has("kvm_msi_set_irq"):
        return
    # without the MSI's event a message of vfio with one accept has one destination
    vfio = np.flatnonzero(result.evidence == Evidence.VFIO_IRQ)
    message = [bool(_MESSAGE.match(handlers.devices[d])) for d in handlers.device[vfio]]
    _, inverse, number = np.unique(
        handlers.entry[vfio], return_inverse=True, return_counts=True
    )
    result.postable[vfio] = np.array(message, np.bool_) & (number[inverse] == 1)


def _irq_lines(events: Events, accepts: Accepts, msi: Array) -> Array:
    """Which accepts came from an interrupt line: IOAPIC or PIC, no MSI.

    kvm_set_irq comes before the accept and kvm_ioapic_set_irq right behind it.
    """
    mine = contexts(events, accepts.rows)
    result = np.zeros(len(mine), np.bool_)
    rows = events.rows("kvm_set_irq")
    i = last_before(mine, accepts.rows, contexts(events, rows), rows)
    at = np.flatnonzero((i >= 0) & ~msi)
    result[at] = ~over_between(events, rows[i[at]], accepts.rows[at])
    # an accept of another vector in between: that one was the line's
    j = last_before(mine, accepts.rows, mine, accepts.rows)
    other = (j >= 0) & (i >= 0) & (accepts.vec[j] != accepts.vec)
    if len(rows):
        result &= ~(other & (accepts.rows[j] > rows[i]))
    # the redirection entry, or what a text prints of it
    entry = events.column("kvm_ioapic_set_irq", "e", np.uint64)
    if entry is None:
        entry = events.column("kvm_ioapic_set_irq", "vector", np.uint64)
    if entry is None:
        return result
    behind = events.rows("kvm_ioapic_set_irq")
    k = last_before(contexts(events, behind), behind, mine, accepts.rows)
    good = (k >= 0) & ((entry & np.uint64(0xFF)).astype(np.int64) == accepts.vec[k])
    k, behind = k[good], behind[good]
    k = k[~over_between(events, accepts.rows[k], behind)]
    result[k[~msi[k]]] = True
    return result


def _queued_by(
    events: Events, accepts: Accepts
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The row whose context each accept is to be understood in, and whether as work.

    workqueue_queue_work, by whoever signals, and workqueue_execute_start, in a kworker,
    name the same work.
    """
    who = accepts.rows.astype(np.int64)
    work = np.zeros(len(who), np.bool_)
    starts = events.rows("workqueue_execute_start")
    started = events.column("workqueue_execute_start", "work", np.uint64)
    if started is None or not len(who):
        return who, work
    i = last_before(contexts(events, who), who, contexts(events, starts), starts)
    comms = events.info.comms
    tids, which = np.unique(events.tid[who], return_inverse=True)
    named = [comms.get(tid, "").startswith("kworker/") for tid in tids.tolist()]
    in_kworker = np.array(named, np.bool_)[which.reshape(-1)]
    at = np.flatnonzero((i >= 0) & in_kworker)
    at = at[~over_between(events, starts[i[at]], who[at])]
    work[at] = True
    queues = events.rows("workqueue_queue_work")
    queued = events.column("workqueue_queue_work", "work", np.uint64)
    if queued is None:
        return who, work
    j = last_before(
        started[i[at]].view(np.int64), starts[i[at]], queued.view(np.int64), queues
    )
    good = j >= 0
    who[at[good]] = queues[j[good]]
    return who, work


def _text(name: object) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return str(name)
