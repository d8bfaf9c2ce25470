"""All that `piscope exits` says, as values: text, JSON and rows are made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from piscope.report.summary import LossLine

__all__ = (
    "BUDGET_PARTS",
    "EXITS_SCHEMA_VERSION",
    "ExitBudget",
    "ExitGroup",
    "ExitLine",
    "ExitReport",
    "ExitTrace",
    "Outlier",
)

EXITS_SCHEMA_VERSION = 1
"""Of the JSON; a key that is renamed, removed, or changes its meaning raises it."""

BUDGET_PARTS = {
    "guest": "in the guest",
    "host": "in KVM, on a pCPU",
    "halt": "halted: polling or blocked until an interrupt comes",
    "steal": "runnable in KVM, but something else had the pCPU",
    "userspace": "out of KVM, running or not",
    "asleep": "asleep in KVM for another reason than a halt",
    "unknown": "lost, or before the first event",
}
"""What a vCPU's wall time is made of: part -> meaning."""


@dataclass(slots=True)
class ExitLine:
    """One exit reason of one group, over the exits whose entry is known.

    reason     the kernel's name, by the trace's own table where it has one
    code       exit_reason as recorded; null: the record lacks it
    isa        1 VMX, 2 SVM, 0 not recorded
    count      exits
    total_ns   from exit to entry, all of them
    min_ns     the quickest
    mean_ns    on average
    p50_ns     half of them took no longer; likewise p90_ns and p99_ns (nearest rank)
    max_ns     the longest
    max_at_ns  when that one began, on the trace's clock
    """

    reason: str
    code: int | None
    isa: int
    count: int
    total_ns: int
    min_ns: int
    mean_ns: float
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    max_at_ns: int


@dataclass(slots=True)
class ExitGroup:
    """The exits of one vCPU, of one VM, or of all that were selected.

    label     `all`, `vm0`, `vm0/vcpu1`
    vm        number of the VM; null: not one, or not known
    vcpu_id   KVM's number; null: not one vCPU, or not known
    tid       the vCPU's thread; null: not one vCPU
    count     exits whose entry is known
    total_ns  from exit to entry, all of them
    left_out  exits without a known entry, by why
    reasons   in the order asked for
    """

    label: str
    vm: int | None
    vcpu_id: int | None
    tid: int | None
    count: int
    total_ns: int
    left_out: dict[str, int]
    reasons: list[ExitLine]


@dataclass(slots=True)
class ExitBudget:
    """Where one vCPU's wall time went.

    wall_ns       the trace's, from the first to the last event that was read
    time_ns       by part; they sum to wall_ns
    uncertain_ns  of it: where the trace leaves the part or its ends open
    """

    label: str
    vm: int | None
    vcpu_id: int | None
    tid: int
    wall_ns: int
    time_ns: dict[str, int]
    uncertain_ns: int


@dataclass(slots=True)
class Outlier:
    """An exit that took long against its reason's median.

    ts_ns         when it began, on the trace's clock
    cpu           the pCPU
    dur_ns        until the entry
    times_median  dur_ns against the median of that reason, over all selected vCPUs
    time_ns       what the vCPU did in it, by part of the budget
    """

    label: str
    reason: str
    ts_ns: int
    cpu: int
    dur_ns: int
    times_median: float
    time_ns: dict[str, int]


@dataclass(slots=True)
class ExitTrace:
    """What was read; the keys are those of `piscope analyze --json`."""

    path: str
    format: str
    kernel_release: str | None
    clock: str | None
    ts_resolution_ns: int
    start_ns: int
    end_ns: int
    duration_ns: int
    events: int
    losses: list[LossLine]


@dataclass(slots=True)
class ExitReport:
    """A trace's VM-exits, ready to be rendered.

    all          over the selected vCPUs
    vms, vcpus   the same for each VM that is known, and each vCPU
    budgets      of each vCPU
    outliers     most extreme first
    narrowed     the options that narrowed the report, as given
    cannot_tell  what the trace could not show, a sentence each
    """

    schema_version: int
    piscope_version: str
    trace: ExitTrace
    all: ExitGroup
    vms: list[ExitGroup]
    vcpus: list[ExitGroup]
    budgets: list[ExitBudget]
    outliers: list[Outlier]
    narrowed: dict[str, str]
    cannot_tell: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists and numbers, in the order of the JSON."""
        return asdict(self)
