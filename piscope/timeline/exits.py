"""Each VM-exit with the VM-entry that ended it: how long its vCPU was out of the guest.

    kvm_exit        kvm_entry
       |---------------|        one thread; nothing else of it pairs

What is paired is what `perf kvm stat` pairs, so that both count the same: entries and
exits of one thread, the exit right before an entry, and nothing before the thread's
first entry (only that tells perf which vCPU the thread is). What perf does not do: a
pair that may lie across lost events is left out, and counted.

Source: tools/perf/builtin-kvm.c, handle_kvm_event, per_vcpu_record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.errors import UnanswerableError
from piscope.sources.raw import Array, Payload
from piscope.tables import Events, Intervals, Vcpus
from piscope.timeline.halts import EXIT_REASON_HLT
from piscope.timeline.intervals import tile
from piscope.timeline.lifecycle import Act, tables, walk
from piscope.timeline.losses import Gap, loss_gaps, unplaced_losses
from piscope.timeline.marks import build_lanes
from piscope.timeline.probes import find_probes
from piscope.timeline.vcpus import find_vcpus

__all__ = ("Exits", "ExitsTimeline", "Fate", "build_exits", "pair_exits", "refuse")

_ISA_SVM = 2  # KVM_ISA_SVM, arch/x86/kvm/trace.h

# arch/x86/include/uapi/asm/svm.h, and what the timeline calls the same
_VMX_OF_SVM = {0x060: 1, 0x072: 10, 0x078: EXIT_REASON_HLT}
_NO_VMX_REASON = 0xFFFF


class Fate(IntEnum):
    """Whether an exit's end is known, and why not."""

    PAIRED = 0
    BEFORE_FIRST_ENTRY = 1  # of its thread, in this trace
    NO_ENTRY = 2  # the thread's next event of the two is an exit again
    OPEN = 3  # the trace ends first
    LOST = 4  # events that may be the thread's were lost before the entry

    @property
    def label(self) -> str:
        """The fate as users read it: `before-first-entry`."""
        return self.name.lower().replace("_", "-")


@dataclass(slots=True)
class Exits:
    """All kvm_exit events of vCPU threads, in time order.

    row     int64[n]  row of EVENTS
    vcpu    int32[n]
    ts_ns   int64[n]  the exit's instant
    cpu     int32[n]  the pCPU it happened on
    reason  int64[n]  exit_reason with its flag bits; -1: not in the record
    isa     int8[n]   1 VMX, 2 SVM, 0: not in the record
    fate    uint8[n]  Fate
    dur_ns  int64[n]  until the entry; -1 unless PAIRED
    """

    row: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int64]
    isa: npt.NDArray[np.int8]
    fate: npt.NDArray[np.uint8]
    dur_ns: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def paired(self) -> npt.NDArray[np.bool_]:
        """bool[n]: the exits whose entry is known."""
        result: npt.NDArray[np.bool_] = self.fate == Fate.PAIRED
        return result

    def left_out(
        self, rows: npt.NDArray[np.bool_], vcpus: int
    ) -> dict[str, npt.NDArray[np.int64]]:
        """How many of these exits (bool[n]) have no known entry: by why, by vCPU."""
        key = self.fate[rows].astype(np.int64) * vcpus + self.vcpu[rows]
        counts = np.bincount(key, minlength=len(Fate) * vcpus)
        counts = counts.reshape(len(Fate), vcpus)
        return {f.label: counts[f] for f in Fate if f is not Fate.PAIRED}


@dataclass(slots=True)
class ExitsTimeline:
    """What a report on VM-exits is made of; any x86 host's.

    span_ns   first and last instant of the events that were read
    unplaced_losses  events lost at unknown places; None: and nobody knows how many
    userspace_visible  visits to userspace leave an event in this trace
    """

    vcpus: Vcpus
    exits: Exits
    intervals: Intervals
    span_ns: tuple[int, int]
    unplaced_losses: int | None
    userspace_visible: bool


def build_exits(events: Events) -> ExitsTimeline:
    """Pair exits with entries, and tile each vCPU's time as INTERVALS does.

    Unlike the timeline of an analysis it needs no posted interrupts: SVM hosts, and
    hypervisors that are guests themselves, have exits all the same.

    Raises UnanswerableError for a trace without VM-exits, one that was sub-sampled,
    or one whose clock does not count nanoseconds.
    """
    scope = events.scope
    if scope is None:
        refuse(events)
        vcpus = find_vcpus(events)
        span_ns = (int(events.ts_ns[0]), int(events.ts_ns[-1]))
    else:
        vcpus, span_ns = scope.whole.vcpus, scope.whole.span_ns
    gaps = loss_gaps(events)
    exits = pair_exits(events, vcpus, gaps)
    unplaced = unplaced_losses(events)
    visible = events.has("kvm_userspace_exit") or events.has("kvm_fpu")
    intervals = _intervals(_with_vmx_reasons(events), vcpus, gaps, span_ns, visible)
    return ExitsTimeline(vcpus, exits, intervals, span_ns, unplaced, visible)


def refuse(events: Events) -> None:
    """Raise UnanswerableError for a trace whose exits can't be timed."""
    path = events.info.path
    if not len(events.rows("kvm_exit")):
        held = ", ".join(sorted(events.counts)[:4]) or "none at all"
        raise UnanswerableError(
            f"no kvm_exit among its events ({held}): record with `trace-cmd record "
            "-e kvm:kvm_entry -e kvm:kvm_exit -e sched:sched_switch`",
            path=path,
        )
    if any(loss.cause == "sub-sampled" for loss in events.losses):
        raise UnanswerableError(
            "sub-sampled (perf record -F or -c): events are missing on purpose, so "
            "entries and exits can't be paired; record without -F and -c",
            path=path,
        )
    if events.info.ts_unit != "ns":
        raise UnanswerableError(
            f"timestamps are {events.info.ts_unit} of clock {events.info.clock}, not "
            "nanoseconds; record with `trace-cmd record -C mono` or give --tsc-khz",
            path=path,
        )


def pair_exits(events: Events, vcpus: Vcpus, gaps: list[Gap]) -> Exits:
    """Each VM-exit of a vCPU thread with its fate.

    `gaps` are the stretches of rows over which events are missing
    (timeline.losses.loss_gaps).
    """
    exit_rows, entry_rows = events.rows("kvm_exit"), events.rows("kvm_entry")
    row = np.concatenate([exit_rows, entry_rows])
    is_exit = np.zeros(len(row), np.bool_)
    is_exit[: len(exit_rows)] = True
    reason, isa = _exit_fields(events)
    vcpu = vcpus.of_tid(events.tid[row])

    # by vCPU, then time; of each exit what comes next in its thread. Both stable sorts
    # are cheap: one merges two ascending runs, one is by radix.
    order = np.argsort(row, kind="stable")
    order = order[vcpu[order] >= 0]
    narrow = np.uint16 if len(vcpus) <= 1 << 16 else np.uint32
    order = order[np.argsort(vcpu[order].astype(narrow), kind="stable")]
    row, vcpu, is_exit, source = row[order], vcpu[order], is_exit[order], order
    last = np.ones(len(row), np.bool_)
    last[:-1] = vcpu[1:] != vcpu[:-1]
    before_entry = np.zeros(len(row), np.bool_)
    before_entry[:-1] = ~is_exit[1:]
    after = np.minimum(np.arange(1, len(row) + 1), max(len(row) - 1, 0))

    # entries up to here, less those of the vCPUs before: none yet
    entries = np.cumsum(~is_exit)
    heads = np.searchsorted(vcpu, np.arange(len(vcpus)))
    entries_before = np.append(0, entries)[heads]
    early = entries == entries_before[vcpu]

    at = np.flatnonzero(is_exit)
    fate = np.where(before_entry[at], Fate.PAIRED, Fate.NO_ENTRY).astype(np.uint8)
    fate[last[at]] = Fate.OPEN
    paired = np.flatnonzero(fate == Fate.PAIRED)
    across = _across_loss(events, vcpus, gaps, row[at[paired]], row[after[at[paired]]])
    fate[paired[across]] = Fate.LOST
    fate[early[at]] = Fate.BEFORE_FIRST_ENTRY
    took_ns = events.ts_ns[row[after[at]]] - events.ts_ns[row[at]]

    in_time = np.argsort(row[at], kind="stable")
    at, fate, took_ns = at[in_time], fate[in_time], took_ns[in_time]
    exits = source[at]
    return Exits(
        row=row[at],
        vcpu=vcpu[at],
        ts_ns=events.ts_ns[row[at]],
        cpu=events.cpu[row[at]],
        reason=reason[exits],
        isa=isa[exits],
        fate=fate,
        dur_ns=np.where(fate == Fate.PAIRED, took_ns, -1),
    )


def _exit_fields(events: Events) -> tuple[Array, Array]:
    """exit_reason and isa of each kvm_exit, -1 and 0 where the record lacks them."""
    n = len(events.rows("kvm_exit"))
    reason = events.column("kvm_exit", "exit_reason", np.int64)
    isa = events.column("kvm_exit", "isa", np.int8)
    if reason is None:
        reason = np.full(n, -1, np.int64)
    else:
        reason = np.where(events.valid("kvm_exit", "exit_reason"), reason, -1)
    return reason, np.zeros(n, np.int8) if isa is None else isa


def _across_loss(
    events: Events, vcpus: Vcpus, gaps: list[Gap], begin: Array, end: Array
) -> npt.NDArray[np.bool_]:
    """Which stretches of a thread, from row `begin` to row `end`, may lack its events.

    On its own pCPU a thread loses what that pCPU loses; once it may have left, what
    any pCPU loses. It may have left when it was switched out, when it is elsewhere
    later, or when the trace has no switches to tell.
    """
    lost = np.zeros(len(begin), np.bool_)
    if not gaps or not len(begin):
        return lost
    left = events.cpu[begin] != events.cpu[end]
    prev_tid = events.column("sched_switch", "prev_pid", np.int32)
    if prev_tid is None:
        left[:] = True
    else:
        left |= _switched_out(events, vcpus.of_tid(prev_tid), vcpus, begin, end)
    lost |= left & _touched(gaps, begin, end)
    everywhere = [gap for gap in gaps if gap[0] is None]
    for cpu in {gap[0] for gap in gaps} - {None}:
        here = np.flatnonzero(events.cpu[begin] == cpu)
        own = everywhere + [gap for gap in gaps if gap[0] == cpu]
        lost[here] |= _touched(own, begin[here], end[here])
    if everywhere:
        lost |= _touched(everywhere, begin, end)
    return lost


def _switched_out(
    events: Events, prev_vcpu: Array, vcpus: Vcpus, begin: Array, end: Array
) -> npt.NDArray[np.bool_]:
    """Whether the thread of each stretch was switched out between its two rows."""
    span = len(events) + 1
    mine = prev_vcpu >= 0
    switches = events.rows("sched_switch")[mine]
    key = np.sort(prev_vcpu[mine].astype(np.int64) * span + switches)
    base = vcpus.of_tid(events.tid[begin]).astype(np.int64) * span
    found: npt.NDArray[np.bool_] = np.searchsorted(key, base + begin) < np.searchsorted(
        key, base + end
    )
    return found


def _touched(gaps: list[Gap], begin: Array, end: Array) -> npt.NDArray[np.bool_]:
    """Which stretches of rows hold a place at which events may be missing.

    A gap's events lie before its first row, its last row, or one between them.
    """
    bounds = np.array(sorted(gap[1:] for gap in gaps), np.int64).reshape(-1, 2)
    reach = np.append(-1, np.maximum.accumulate(bounds[:, 1]))
    upto = np.searchsorted(bounds[:, 0], end, side="right")
    touched: npt.NDArray[np.bool_] = reach[upto] > begin
    return touched


def _with_vmx_reasons(events: Events) -> Events:
    """The events with SVM exit codes as the VMX reasons that the timeline knows.

    Of those it knows halts, interrupts and what never leads to userspace.
    """
    isa = events.column("kvm_exit", "isa", np.int64)
    if isa is None or not (isa == _ISA_SVM).any():
        return events
    payload = dict(events.payload)
    for index, own in events.payload.items():
        if events.names[index][1] != "kvm_exit" or "exit_reason" not in own.columns:
            continue
        codes = own.columns["exit_reason"].astype(np.int64)
        reasons = np.full(len(codes), _NO_VMX_REASON, np.int64)
        for code, vmx in _VMX_OF_SVM.items():
            reasons[codes == code] = vmx
        svm = own.columns["isa"] == _ISA_SVM if "isa" in own.columns else False
        columns = {**own.columns, "exit_reason": np.where(svm, reasons, codes)}
        payload[index] = Payload(own.rows, columns, own.valid)
    return replace(events, payload=payload)


def _intervals(
    events: Events,
    vcpus: Vcpus,
    gaps: list[Gap],
    span_ns: tuple[int, int],
    userspace_visible: bool,
) -> Intervals:
    # the steps of timeline.build, without posts and windows
    probes = find_probes(events)
    both = {p.what for p in probes if not p.at_return} == {"load", "put"}
    used = probes if both else []
    lanes = build_lanes(events, vcpus, used, gaps)
    after, acts = tables(bool(used))
    before = walk(lanes.mark, lanes.starts, after)
    act = acts[before, lanes.mark]
    act[lanes.unsure] |= np.uint8(Act.UNSURE)
    life = after[before, lanes.mark]
    return tile(vcpus, lanes, life, act, span_ns, userspace_visible)
