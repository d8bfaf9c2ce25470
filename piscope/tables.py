"""The tables that pass between the stages, held by columns.

A stage takes and gives these, and never imports another stage. Each class is one
table: its fields are columns of one length (numpy), described with dtype, unit and
meaning. `schema` names the same columns for Parquet and for people.

Times are int64 ns on the trace's clock, intervals are half-open. Inside piscope an
unknown number is -1 where the column says so; in every output it is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.events_table import Events
from piscope.origins import Given

__all__ = (
    "Acts",
    "Events",
    "Given",
    "Intervals",
    "Kind",
    "Posts",
    "PutReason",
    "Timeline",
    "Vcpu",
    "Vcpus",
    "Windows",
)


@dataclass(frozen=True, slots=True)
class Vcpu:
    """One vCPU (a row of VCPUS).

    vm        number of its VM, by first appearance; None: not known
    vcpu_id   KVM's number within the VM; None: not known
    evidence  "kvm_entry", "kvm_exit", "guest-option" or "comm"
    label     a short name for people, no two alike: `vm0/vcpu1`, or with the thread
              (`vcpu1[4711]`) where the VM is not known
    """

    vcpu: int
    tid: int
    tgid: int | None
    vm: int | None
    vcpu_id: int | None
    comm: str | None
    evidence: str
    label: str


@dataclass(slots=True)
class Vcpus:
    """All vCPUs of a trace, and the thread-to-vCPU map as one array."""

    rows: list[Vcpu]
    vm_known: bool
    by_tid: npt.NDArray[np.int32]  # one entry more than the greatest thread; -1: none

    def __len__(self) -> int:
        return len(self.rows)

    def of_tid(self, tid: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """int32[n]: the vCPU of each thread, -1 where it is none."""
        # thread 0 is no vCPU and the last entry none: both ends are safe to clip to
        return self.by_tid.take(tid, mode="clip")

    def candidates(self, vcpu_id: int) -> list[int]:
        """The vCPUs, of any VM, with that vcpu_id."""
        return [v.vcpu for v in self.rows if v.vcpu_id == vcpu_id]


class Kind(IntEnum):
    """What a vCPU does in an interval; the names are those of INTERVALS.kind."""

    UNKNOWN = 0
    GUEST = 1
    HOST_IRQS_OFF = 2
    HOST = 3
    POLL = 4
    USERSPACE = 5
    PREEMPTED = 6
    BLOCKED = 7
    ASLEEP = 8

    @property
    def label(self) -> str:
        """The kind as users read it: `host-irqs-off`."""
        return self.name.lower().replace("_", "-")


@dataclass(slots=True)
class Intervals:
    """All vCPUs' intervals, vCPU after vCPU, each in time order and tiling it.

    vcpu      int32[n]
    kind      uint8[n]  Kind
    start_ns  int64[n]  half-open: start <= t < end
    end_ns    int64[n]
    cpu       int32[n]  the pCPU it runs on, -1: on none, or unknown
    reason    int32[n]  the VM-exit's reason for what follows one in KVM, else -1
    certain   bool[n]   False: the trace leaves the kind or an end open
    row       int64[n]  the event that began it, -1: the trace's start
    """

    vcpu: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int32]
    certain: npt.NDArray[np.bool_]
    row: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.vcpu)


class PutReason(IntEnum):
    """Why a vCPU was put; the names are those of WINDOWS.reason."""

    UNKNOWN = 0
    USERSPACE = 1
    PREEMPTED = 2
    BLOCKING = 3
    BLOCKING_IRQS_BLOCKED = 4  # blocking with the guest's interrupts blocked
    BLOCKING_PREEMPTED = 5
    ASLEEP = 6  # a sleep in KVM that is no halt
    RUNNABLE = 7  # switched out runnable, but not `preempted` for KVM
    IOCTL = 8  # the end of a vCPU ioctl other than KVM_RUN

    @property
    def label(self) -> str:
        """The reason as users read it: `blocking-irqs-blocked`."""
        return self.name.lower().replace("_", "-")


@dataclass(slots=True)
class Windows:
    """All puts, vCPU after vCPU, each with the load that ends its window.

    vcpu       int32[n]
    reason     uint8[n]  PutReason
    put_row    int64[n]
    put_ns     int64[n]
    put_cpu    int32[n]  also where notifications go (NDST): a loaded vCPU does not
                         move, so it is the pCPU of its last load
    load_row   int64[n]  -1: the trace ends, or loses the vCPU, before it is loaded
    load_ns    int64[n]  then the thread's death, or the end of the trace, or the
                         instant from which on nothing is known
    load_cpu   int32[n]  then -1
    end_row    int64[n]  where the window ends: load_row, or the row from which on
                         nothing is known, or the number of rows
    certain    bool[n]   the put is at its place, and its reason is the right one, or
                         unknown but neither a preemption nor a halt
    probed     bool[n]   probes read the descriptor at both ends; then
    on_put     int8[n]   ON at the end of the put (-1: not read)
    on_before  int8[n]   ON when the put began (-1: not read)
    pir_before int8[n]   PIR not empty when the put began (-1: not read)
    on_load    int8[n]   ON when the load began (-1: not read)
    pir_load   int8[n]   PIR not empty when the load began (-1: not read)
    sn_put     int8[n]   SN at the end of the put (-1: not read)
    nv_put     int16[n]  NV likewise
    new_pir    uint64[n, 4]  bits that PIR gained in the window
    """

    vcpu: npt.NDArray[np.int32]
    reason: npt.NDArray[np.uint8]
    put_row: npt.NDArray[np.int64]
    put_ns: npt.NDArray[np.int64]
    put_cpu: npt.NDArray[np.int32]
    load_row: npt.NDArray[np.int64]
    load_ns: npt.NDArray[np.int64]
    load_cpu: npt.NDArray[np.int32]
    end_row: npt.NDArray[np.int64]
    certain: npt.NDArray[np.bool_]
    probed: npt.NDArray[np.bool_]
    on_put: npt.NDArray[np.int8]
    on_before: npt.NDArray[np.int8]
    pir_before: npt.NDArray[np.int8]
    on_load: npt.NDArray[np.int8]
    pir_load: npt.NDArray[np.int8]
    sn_put: npt.NDArray[np.int8]
    nv_put: npt.NDArray[np.int16]
    new_pir: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.vcpu)


@dataclass(slots=True)
class Posts:
    """Interrupts that KVM accepted for a vCPU, or that a user gave, in time order.

    ts_ns      int64[n]  the instant of the post; for an MSI, kvm_msi_set_irq
    at         int64[n]  the row of EVENTS at which the call chain began
    row        int64[n]  the accept event's row of EVENTS
    vcpu       int32[n]  target; -1: which of several vCPUs with that vcpu_id, or an
                         unknown one, the trace does not tell
    vcpu_id    int32[n]  as traced
    vector     int16[n]
    msi        bool[n]   delivered by an MSI
    unicast    bool[n]   the MSI had one destination (only those can be posted)
    cpu, tid   int32[n]  where, and in which thread's context
    posted     bool[n]   it went through PIR; False: accepted into the local APIC's
                         IRR because APICv was off for that vCPU
    certain    bool[n]   False: the target was learned from other posts
    origin     uint8[n]  origins.Origin: who posted
    evidence   uint8[n]  origins.Evidence: what tells that
    cause      int64[n]  the row of EVENTS at which hardware would have posted: the host
                         interrupt, the sender's VM-exit, else `at`
    postable   bool[n]   hardware could have posted it: an MSI with one destination, or
                         an IPI that IPI virtualization takes
    host_irq   int32[n]  of a vfio interrupt, -1: none
    device     int32[n]  index into `devices`: the interrupt's name, -1: none
    devices    names of interrupts
    target_by  uint8[n]  origins.Target: what tells the target
    given      uint8[n]  origins.Given: a post that the user gave, and who posted it;
                         `at` and `row` are then the last event up to it, `cpu` and
                         `tid` -1
    """

    ts_ns: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]
    vcpu_id: npt.NDArray[np.int32]
    vector: npt.NDArray[np.int16]
    msi: npt.NDArray[np.bool_]
    unicast: npt.NDArray[np.bool_]
    cpu: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    posted: npt.NDArray[np.bool_]
    certain: npt.NDArray[np.bool_]
    origin: npt.NDArray[np.uint8]
    evidence: npt.NDArray[np.uint8]
    cause: npt.NDArray[np.int64]
    postable: npt.NDArray[np.bool_]
    host_irq: npt.NDArray[np.int32]
    device: npt.NDArray[np.int32]
    devices: list[str]
    target_by: npt.NDArray[np.uint8]
    given: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ts_ns)

    @property
    def given_by_hardware(self) -> npt.NDArray[np.bool_]:
        """bool[n]: posts that a user says VT-d or IPI virtualization made."""
        result: npt.NDArray[np.bool_] = np.isin(self.given, (Given.VTD, Given.IPIV))
        return result


@dataclass(slots=True)
class Acts:
    """What the vCPUs' events did to their descriptors, vCPU after vCPU, in order.

    vcpu    int32[n]
    row     int64[n]  row of EVENTS
    ts_ns   int64[n]
    cpu     int32[n]
    act     uint8[n]  bits of timeline.lifecycle.Act
    direct  bool[n]   a VM-exit with the entry right behind it, no event of the thread
                      between them: maybe a fast path, in which IRQs stay off
    reason  int32[n]  of VM-exits, else -1
    """

    vcpu: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    act: npt.NDArray[np.uint8]
    direct: npt.NDArray[np.bool_]
    reason: npt.NDArray[np.int32]


@dataclass(slots=True)
class Timeline:
    """Everything that the timeline stage gives.

    span_ns   first and last instant of the trace
    probes    names of the events on pi_load and pi_put that were used
    userspace_visible  visits to userspace leave an event in this trace
    blind     int64[n, 2]  rows, half-open, from which events of some pCPU are missing;
              ascending, no two touch. An empty one: lost between two rows
    unplaced_losses  events lost at unknown places: each may hide, or fake, one window
    lost_windows     windows that may lie in lost stretches of known place, at the most
    """

    vcpus: Vcpus
    intervals: Intervals
    windows: Windows
    acts: Acts
    posts: Posts
    span_ns: tuple[int, int]
    probes: tuple[str, ...]
    userspace_visible: bool
    blind: npt.NDArray[np.int64]
    unplaced_losses: int
    lost_windows: int
