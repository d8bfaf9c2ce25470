"""Which vCPU a post meant, where several VMs have one of that vcpu_id.

What the post did tells (whom it woke, whose PIR has the vector), or who posted: a
vCPU's thread, a thread of the VMM, a vhost worker and a device serve one VM each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from piscope.origins import Target
from piscope.sources.raw import Array
from piscope.tables import Events, PutReason, Vcpus, Windows
from piscope.timeline.origins_chains import (
    ANY_IRQ,
    Accepts,
    contexts,
    last_before,
    open_handler,
)
from piscope.timeline.probes import Probe, probe_columns

__all__ = ("CERTAIN", "TIMER_HANDLERS", "find_targets", "wakings")

CERTAIN = frozenset(
    {
        Target.VCPU_ID,
        Target.OWN_THREAD,
        Target.SAME_VM,
        Target.WOKEN,
        Target.PIR,
        Target.IRTE,
    }
)
"""Evidence that leaves no other target possible; the rest is learned from others."""

TIMER_HANDLERS = (
    ("local_timer_entry", "local_timer_exit"),
    ("hrtimer_expire_entry", "hrtimer_expire_exit"),
)

_ALSO_KERNEL = re.compile(
    r"(?:kworker|ksoftirqd|migration|rcu\w*|cpuhp)/|swapper|<idle>"
)
_OWNED = re.compile(r"(?:vhost-|kvm-pit/)(\d{1,10})$")
_F2 = 0xF2  # POSTED_INTR_VECTOR: the halt did not arm the wakeup vector
_DEVICE = 1 << 40  # actors above it are host IRQs, below it threads


def find_targets(
    events: Events,
    vcpus: Vcpus,
    windows: Windows,
    probes: list[Probe],
    accepts: Accepts,
    started: Array,
    host_irq: Array,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The target vCPU of each accept (-1: not told), and what tells it (Target).

    `started` is the row at which each post's call chain began, `host_irq` the vfio
    interrupt in whose handler it was made (-1: in none).
    """
    n = len(accepts.rows)
    vcpu, by = np.full(n, -1, np.int32), np.zeros(n, np.uint8)
    shared: dict[int, list[int]] = {}
    for vcpu_id in np.unique(accepts.apicid).tolist():
        candidates = vcpus.candidates(vcpu_id)
        mine = accepts.apicid == vcpu_id
        if len(candidates) == 1:
            vcpu[mine], by[mine] = candidates[0], Target.VCPU_ID
        elif candidates:
            shared[vcpu_id] = candidates
    if not shared:
        return vcpu, by
    open_ = np.flatnonzero(np.isin(accepts.apicid, list(shared)))
    asked = Accepts(accepts.rows[open_], accepts.apicid[open_], accepts.vec[open_])
    found = _Search(events, vcpus, windows, asked, started[open_], host_irq[open_])
    found.by_poster(shared)
    found.by_waking(shared)
    found.by_irte(shared)
    found.by_elimination(shared, probes)
    found.by_actor(shared)
    vcpu[open_], by[open_] = found.vcpu, found.by
    return vcpu, by


class _Search:
    """The posts whose vcpu_id is shared, and what has been found of each so far."""

    def __init__(
        self,
        events: Events,
        vcpus: Vcpus,
        windows: Windows,
        accepts: Accepts,
        started: Array,
        host_irq: Array,
    ) -> None:
        self.events, self.vcpus, self.windows = events, vcpus, windows
        self.accepts, self.started, self.host_irq = accepts, started, host_irq
        self.tid = events.tid[accepts.rows]
        in_irq = (events.flags[accepts.rows] & ANY_IRQ) != 0
        self.in_thread = ~in_irq & (host_irq < 0)
        self.vcpu = np.full(len(started), -1, np.int32)
        self.by = np.zeros(len(started), np.uint8)
        self.vm_of_tgid = {v.tgid: v.vm for v in vcpus.rows if v.tgid is not None}

    def _found(self, at: Array, vcpu: Array | int, by: Target) -> None:
        fresh = self.vcpu[at] < 0
        some = vcpu[fresh] if isinstance(vcpu, np.ndarray) else vcpu
        self.vcpu[at[fresh]] = some
        self.by[at[fresh]] = by

    def by_poster(self, shared: dict[int, list[int]]) -> None:
        """A vCPU's own thread, and threads whose process is known."""
        for tid, vcpu_id, at in self._pairs(self.tid, self.in_thread):
            poster = int(self.vcpus.of_tid(np.array([tid], np.int32))[0])
            if poster in shared[vcpu_id]:
                self._found(at, poster, Target.OWN_THREAD)
                continue
            vm = self.vcpus.rows[poster].vm if poster >= 0 else self._vm_of_thread(tid)
            same = [
                c
                for c in shared[vcpu_id]
                if vm is not None and self.vcpus.rows[c].vm == vm
            ]
            if len(same) == 1:
                self._found(at, same[0], Target.SAME_VM)

    def _vm_of_thread(self, tid: int) -> int | None:
        info = self.events.info
        owned = _OWNED.match(info.comms.get(tid, ""))
        # a vhost worker bears the name of the thread that set its owner
        owner = int(owned[1]) if owned else tid
        return self.vm_of_tgid.get(info.tgids.get(owner, owner))

    def by_waking(self, shared: dict[int, list[int]]) -> None:
        """The vCPU that was woken within the call chain."""
        rows, target = wakings(self.events, self.vcpus)
        # in the same context: an interrupt in between may wake anyone
        last = last_before(
            contexts(self.events, self.accepts.rows),
            self.accepts.rows,
            contexts(self.events, rows),
            rows,
        )
        at = np.flatnonzero(last >= 0)
        at = at[rows[last[at]] > self.started[at]]
        woken = target[last[at]]
        id_of = np.array([_number(v.vcpu_id) for v in self.vcpus.rows], np.int64)
        good = id_of[woken] == self.accepts.apicid[at]
        self._found(at[good], woken[good], Target.WOKEN)

    def by_irte(self, shared: dict[int, list[int]]) -> None:
        """The VM whose thread last routed the host IRQ (kvm_pi_irte_update)."""
        events = self.events
        irq = events.column("kvm_pi_irte_update", "host_irq", np.int64)
        if irq is None:
            return
        rows = events.rows("kvm_pi_irte_update")
        last = last_before(self.host_irq, self.accepts.rows, irq, rows)
        at = np.flatnonzero((self.host_irq >= 0) & (last >= 0))
        for i in at.tolist():
            tid = int(events.tid[rows[last[i]]])
            poster = int(self.vcpus.of_tid(np.array([tid], np.int32))[0])
            vm = self.vcpus.rows[poster].vm if poster >= 0 else self._vm_of_thread(tid)
            same = [
                c
                for c in shared[int(self.accepts.apicid[i])]
                if c == poster or (vm is not None and self.vcpus.rows[c].vm == vm)
            ]
            if len(same) == 1:
                self._found(np.array([i]), same[0], Target.IRTE)

    def by_elimination(self, shared: dict[int, list[int]], probes: list[Probe]) -> None:
        """All other candidates lack what the post would have done to them."""
        load = probe_columns(self.events, probes, "load", at_return=False)
        # of sched_wakeup alone only if nothing better is there
        at_once = self.events.has("sched_waking")
        name = "sched_waking" if at_once else "sched_wakeup"
        rows, target = wakings(self.events, self.vcpus, (name,))
        order = np.argsort(target, kind="stable")
        ends = np.searchsorted(target[order], np.arange(len(self.vcpus) + 1))
        for vcpu_id, candidates in shared.items():
            at = np.flatnonzero((self.accepts.apicid == vcpu_id) & (self.vcpu < 0))
            if not len(at):
                continue
            no_pir = np.zeros((len(candidates), len(at)), np.bool_)
            slept = no_pir.copy()
            for i, candidate in enumerate(candidates):
                window = self._window_of(candidate, at)
                if load is not None and load.pir is not None:
                    no_pir[i] = self._lacks_bit(window, at, load.rows, load.pir)
                own = rows[order[ends[candidate] : ends[candidate + 1]]]
                slept[i] = self._slept_on(own, window, at, at_once=at_once)
            for out, by in (
                (no_pir, Target.PIR),
                (no_pir | slept, Target.ELIMINATION),
            ):
                one = (~out).sum(axis=0) == 1
                left = np.asarray(candidates, np.int32)[np.argmin(out, axis=0)]
                self._found(at[one], left[one], by)

    def _window_of(self, vcpu: int, at: Array) -> Array:
        """The window of that vCPU that holds the whole of each post, or -1."""
        w = self.windows
        begin, end = np.searchsorted(w.vcpu, (vcpu, vcpu + 1))
        if begin == end:
            return np.full(len(at), -1, np.int64)
        i = np.searchsorted(w.put_row[begin:end], self.started[at], side="left") - 1
        found = begin + np.maximum(i, 0)
        whole = (i >= 0) & (self.accepts.rows[at] < w.end_row[found])
        return np.where(whole, found, -1)

    def _lacks_bit(
        self, window: Array, at: Array, rows: Array, pir: Array
    ) -> npt.NDArray[np.bool_]:
        """PIR at the window's end does not hold the vector: nobody posted it."""
        if not len(rows) or not len(self.windows):
            return np.zeros(len(at), np.bool_)
        load_row = np.where(window >= 0, self.windows.load_row[window], -1)
        i = np.minimum(np.searchsorted(rows, load_row), len(rows) - 1)
        vec = self.accepts.vec[at]
        word = pir[i, vec >> 6] >> (vec & 63).astype(np.uint64)
        result: npt.NDArray[np.bool_] = (word & np.uint64(1)) == 0
        result &= (load_row >= 0) & (rows[i] == load_row)
        return result

    def _slept_on(
        self, wakings: Array, window: Array, at: Array, *, at_once: bool
    ) -> npt.NDArray[np.bool_]:
        """It was blocked, and nothing woke it that this post could have caused.

        ON is 0 in a halt until something wakes the vCPU, so that a post by KVM does.
        sched_waking is traced by who wakes (`at_once`); of sched_wakeup, one by another
        thread or by a timer is another's, since it may come late from another pCPU.
        """
        events, w = self.events, self.windows
        result = np.zeros(len(at), np.bool_)
        if not len(w) or not len(wakings):
            return result
        blocked = (window >= 0) & (w.reason[window] == PutReason.BLOCKING)
        blocked &= w.certain[window] & (w.nv_put[window] != _F2)
        i = np.searchsorted(wakings, w.put_row[window], side="right")
        first = wakings[np.minimum(i, len(wakings) - 1)]
        later: npt.NDArray[np.bool_] = first > self.accepts.rows[at]
        later &= blocked & (i < len(wakings))
        if at_once:
            return later
        some = np.flatnonzero(later)
        row = first[some]
        in_irq = (events.flags[row] & ANY_IRQ) != 0
        other = np.where(
            in_irq,
            open_handler(events, row, TIMER_HANDLERS) >= 0,
            events.tid[row] != 0,
        )
        result[some] = other & events.info.events_flags
        return result

    def by_actor(self, shared: dict[int, list[int]]) -> None:
        """What the same device or thread meant otherwise: it serves one VM."""
        actor = np.where(self.in_thread, self.tid.astype(np.int64), -1)
        irq = self.host_irq.astype(np.int64)
        actor = np.where(irq >= 0, irq + _DEVICE, actor)
        for tid in np.unique(actor[(actor >= 0) & (actor < _DEVICE)]).tolist():
            comm = self.events.info.comms.get(tid, "")
            if tid == 0 or _ALSO_KERNEL.match(comm):
                actor[actor == tid] = -1
        vms = _Vms(self.vcpus)
        meant: dict[int, set[int]] = {}
        known = np.flatnonzero((actor >= 0) & (self.vcpu >= 0))
        n = len(self.vcpus)
        pairs = np.unique(actor[known] * n + self.vcpu[known])
        scope = self.events.scope
        if scope is not None:
            if scope.learning:
                mine = known[scope.own.rows(self.accepts.rows[known])]
                own_pairs = actor[mine] * n + self.vcpu[mine]
                scope.learned.meant.update(np.unique(own_pairs).tolist())
            pairs = np.array(sorted(scope.learned.meant), np.int64)
        for pair in pairs.tolist():
            meant.setdefault(pair // n, set()).add(pair % n)
        for who, members in meant.items():
            own = int(self.vcpus.of_tid(np.array([who % _DEVICE], np.int32))[0])
            if who < _DEVICE and own >= 0:
                members.add(own)
            if not vms.join(members):
                members.clear()
        for who, vcpu_id, at in self._pairs(actor, (actor >= 0) & (self.vcpu < 0)):
            left = vms.of_same(meant.get(who, set()), shared[vcpu_id])
            if len(left) == 1:
                by = Target.DEVICE if who >= _DEVICE else Target.THREAD
                self._found(at, left[0], by)

    def _pairs(self, key: Array, which: Array) -> Iterator[tuple[int, int, Array]]:
        """Each (key, vcpu_id) of the posts, and those that have it."""
        at = np.flatnonzero(which)
        if not len(at):
            return
        span = int(self.accepts.apicid.max()) + 1
        both = key[at].astype(np.int64) * span + self.accepts.apicid[at]
        order = np.argsort(both, kind="stable")
        both, at = both[order], at[order]
        firsts = np.flatnonzero(np.diff(both, prepend=both[0] - 1))
        for some in np.split(at, firsts[1:]):
            yield int(key[some[0]]), int(self.accepts.apicid[some[0]]), some


class _Vms:
    """Which vCPUs are of one VM, as far as is known: no two of them share an id."""

    def __init__(self, vcpus: Vcpus) -> None:
        self._vcpus = vcpus
        by_vm: dict[int, set[int]] = {}
        self._group: list[set[int]] = [{v.vcpu} for v in vcpus.rows]
        for v in vcpus.rows:
            if v.vm is not None:
                by_vm.setdefault(v.vm, set()).add(v.vcpu)
        for group in by_vm.values():
            for vcpu in group:
                self._group[vcpu] = group

    def join(self, members: set[int]) -> bool:
        """Make one VM of them; False, and nothing done, if two share an id."""
        together: set[int] = set().union(*(self._group[m] for m in members))
        if not self._one_vm(together):
            return False
        for vcpu in together:
            self._group[vcpu] = together
        return True

    def of_same(self, members: set[int], candidates: list[int]) -> list[int]:
        """Those of the candidates that may be of the members' VM."""
        if not members:
            return candidates
        group: set[int] = set().union(*(self._group[m] for m in members))
        inside = [c for c in candidates if c in group]
        return inside or [c for c in candidates if self._one_vm(group | self._group[c])]

    def _one_vm(self, group: set[int]) -> bool:
        ids = [self._vcpus.rows[vcpu].vcpu_id for vcpu in group]
        vms = {self._vcpus.rows[vcpu].vm for vcpu in group} - {None}
        return len(ids) == len(set(ids)) and len(vms) <= 1


def _number(vcpu_id: int | None) -> int:
    return -1 if vcpu_id is None else vcpu_id


def wakings(
    events: Events,
    vcpus: Vcpus,
    names: tuple[str, ...] = ("sched_waking", "sched_wakeup"),
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Rows that wake a vCPU's thread, ascending, and that vCPU."""
    rows, target = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for name in names:
        tid = events.column(name, "pid", np.int32)
        if tid is not None:
            rows.append(events.rows(name))
            target.append(vcpus.of_tid(tid))
    row, vcpu = np.concatenate(rows), np.concatenate(target)
    order = np.argsort(row, kind="stable")
    order = order[vcpu[order] >= 0]
    return row[order], vcpu[order]
