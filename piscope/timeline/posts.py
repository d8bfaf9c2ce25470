"""Interrupts that were posted, to whom, and on what evidence (POSTS).

KVM's own posts are traced: kvm_apicv_accept_irq follows each one. Posts by a device
(VT-d) or by IPI virtualization leave no event; what betrays them is a descriptor
that changed while its vCPU was away (windows.py). An accept that follows a
kvm_msi_set_irq in one call chain came from an MSI, which a posting device would have
posted by itself. Who posted is decided in origins.py, to whom in origins_targets.py.

    irq handler, eventfd or ioctl:
      kvm_msi_set_irq -> kvm_apic_accept_irq -> [PIR, ON, IPI or wakeup]
                                                    -> kvm_apicv_accept_irq

Source: arch/x86/kvm/lapic.c (__apic_accept_irq), arch/x86/kvm/irq_comm.c.
"""

from __future__ import annotations

import numpy as np

from piscope.sources.raw import Array
from piscope.tables import Events, Posts, Vcpus, Windows
from piscope.timeline.origins import find_handlers, find_origins
from piscope.timeline.origins_chains import (
    Accepts,
    contexts,
    last_before,
    over_between,
)
from piscope.timeline.origins_targets import CERTAIN, find_targets
from piscope.timeline.probes import Probe

__all__ = ("find_posts",)


def find_posts(
    events: Events, vcpus: Vcpus, windows: Windows, probes: list[Probe]
) -> Posts:
    """Every fixed interrupt that KVM accepted for a vCPU.

    Since kvm_apicv_accept_irq exists (5.15) it tells a post from an accept without
    APICv; before, every accept counts as a post.
    """
    plain = _accepts(events, "kvm_apic_accept_irq")
    apicv = _accepts(events, "kvm_apicv_accept_irq")
    if len(apicv.rows) == 0:
        chosen, posted = (
            plain,
            np.full(len(plain.rows), not events.has("kvm_apicv_accept_irq")),
        )
    else:
        chosen, posted = apicv, np.ones(len(apicv.rows), np.bool_)
    started = chosen.rows
    if len(plain.rows) and len(chosen.rows):
        before = _preceding(events, chosen, plain)
        started = np.where(before >= 0, plain.rows[before], started)
    msi_row, unicast = _msi_of(events, chosen)
    is_msi = msi_row >= 0
    started = np.where(is_msi, msi_row, started).astype(np.int64)
    handlers = find_handlers(events, chosen)
    vcpu, target_by = find_targets(
        events, vcpus, windows, probes, chosen, started, handlers.host_irq
    )
    who = find_origins(events, vcpus, chosen, started, vcpu, is_msi, unicast, handlers)
    order = np.argsort(started, kind="stable")
    return Posts(
        ts_ns=events.ts_ns[started][order],
        at=started[order],
        row=chosen.rows[order],
        vcpu=vcpu[order],
        vcpu_id=chosen.apicid[order].astype(np.int32),
        vector=chosen.vec[order].astype(np.int16),
        msi=is_msi[order],
        unicast=unicast[order],
        cpu=events.cpu[chosen.rows][order],
        tid=events.tid[chosen.rows][order],
        posted=posted[order],
        certain=np.isin(target_by, [0, *CERTAIN])[order],
        origin=who.origin[order],
        evidence=who.evidence[order],
        cause=who.cause[order],
        postable=who.postable[order],
        host_irq=handlers.host_irq[order],
        device=handlers.device[order],
        devices=handlers.devices,
        target_by=target_by[order],
        given=np.zeros(len(order), np.uint8),
    )


def _accepts(events: Events, name: str) -> Accepts:
    rows = events.rows(name)
    columns = [events.column(name, f, np.int64) for f in ("apicid", "vec", "dm")]
    apicid, vec, dm = columns
    if apicid is None or vec is None:
        empty = np.empty(0, np.int64)
        return Accepts(empty, empty, empty)
    known = events.valid(name, "apicid") & events.valid(name, "vec")
    if dm is not None:
        # the register's field (bits 10:8) or, from texts, its value
        mode = np.where(dm > 7, dm >> 8, dm)
        known &= mode <= 1  # APIC_DM_FIXED, APIC_DM_LOWEST
    return Accepts(rows[known], apicid[known], vec[known])


def _preceding(events: Events, apicv: Accepts, plain: Accepts) -> Array:
    """The kvm_apic_accept_irq of each kvm_apicv_accept_irq: index, or -1."""
    found = last_before(
        contexts(events, apicv.rows),
        # an accept without APICv is its own beginning
        apicv.rows + 1,
        contexts(events, plain.rows),
        plain.rows,
    )
    same = (plain.vec[found] == apicv.vec) & (plain.apicid[found] == apicv.apicid)
    result: Array = np.where((found >= 0) & same, found, -1)
    return result


def _msi_of(events: Events, accepts: Accepts) -> tuple[Array, Array]:
    """The kvm_msi_set_irq of each accept (row or -1), and whether it has just one.

    Between the two nothing of that pCPU may say that the call chain is over: the
    tracepoint is also emitted where an MSI is only decoded.
    """
    rows = events.rows("kvm_msi_set_irq")
    data = events.column("kvm_msi_set_irq", "data", np.int64)
    if data is None:
        data = events.column("kvm_msi_set_irq", "vector", np.int64)
    none = np.full(len(accepts.rows), -1, np.int64)
    if data is None or not len(accepts.rows):
        return none, np.zeros(len(accepts.rows), np.bool_)
    found = last_before(
        contexts(events, accepts.rows), accepts.rows, contexts(events, rows), rows
    )
    good = found >= 0
    good &= (data[found] & 0xFF) == accepts.vec
    at = np.flatnonzero(good)
    good[at] = ~over_between(events, rows[found[at]], accepts.rows[at])
    msi_row = np.where(good, rows[found], -1)
    _, inverse, number = np.unique(msi_row, return_inverse=True, return_counts=True)
    unicast = good & (number[inverse] == 1)
    return msi_row, unicast
