"""The one object that every rendering of an analysis is made from.

`Summary` holds numbers and names only, in the shape of the documented JSON
(`docs/json.md`); no rendering computes a number of its own, so that no two disagree.

A range has `min` and `max`: what the trace proves, and what it can't exclude.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = (
    "SCHEMA_VERSION",
    "Bounds",
    "Exposed",
    "Group",
    "LossLine",
    "PolicySummary",
    "Question",
    "Removed",
    "Summary",
    "TraceSummary",
    "VcpuSummary",
    "WindowLine",
)

SCHEMA_VERSION = 1
"""Of the JSON; a key that is renamed, removed, or changes its meaning raises it."""


@dataclass(slots=True)
class Bounds:
    """A count that lies between `min` and `max`."""

    min: int = 0
    max: int = 0

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.min + other.min, self.max + other.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return f"{self.min:,}"
        return f"{self.min:,} to {self.max:,}"


@dataclass(slots=True)
class LossLine:
    """One cause of loss: how often, how many events (None: not known), and examples."""

    cause: str
    times: int
    events: int | None
    cpus: list[int]
    detail: str


@dataclass(slots=True)
class VcpuSummary:
    """One vCPU, and its time by what it did (ns; they sum to the trace's span)."""

    label: str
    vm: int | None
    vcpu_id: int | None
    tid: int
    tgid: int | None
    comm: str | None
    evidence: str
    time_ns: dict[str, int]
    puts: dict[str, int]
    entries: int
    uncertain_puts: int


@dataclass(slots=True)
class TraceSummary:
    """What was analyzed."""

    path: str
    format: str
    kernel_release: str | None
    clock: str | None
    ts_resolution_ns: int
    start_ns: int
    end_ns: int
    duration_ns: int
    cpus: list[int]
    host_cpus: int | None
    vms: int | None
    events: int
    events_used: int
    losses: list[LossLine]
    captured_policy: str | None
    captured_policy_by: str
    captured_policy_evidence: str
    posting_by_hardware: bool | None
    probes: list[str]
    notes: list[str]


@dataclass(slots=True)
class Question:
    """Which question the replay answered.

    posted        "msi" or "none": what `--posted` asked for
    as_hardware   posts by KVM that were replayed as a device's
    as_software   posts by KVM that stayed such
    from_windows  posts by hardware that probes betray
    not_posted    accepts that never went through PIR (APICv off)
    no_target     posts to a vcpu_id that several vCPUs have
    text          one sentence for people
    """

    posted: str
    as_hardware: int
    as_software: int
    from_windows: int
    not_posted: int
    no_target: int
    text: str


@dataclass(slots=True)
class Exposed:
    """Windows with SN=0 and NV=0xF2 of some vCPUs, and how long they were."""

    windows: Bounds
    duration_ns: Bounds
    longest_ns: int


@dataclass(slots=True)
class PolicySummary:
    """One policy's outcome.

    unloaded_notifications  sent while the vCPU was not loaded, whatever they hit
    residual_notifications  sent while it was loaded, in the host
    wrong_vcpu              of the unloaded ones: taken in another vCPU's guest mode
    known                   the same three by posts that are known, without those that
                            the trace merely can't exclude
    wrong_vcpu_if_evenly_spread
                            an estimate, no count: of the known ones, if instants that
                            are only known to lie in a window were spread evenly over
                            it. Posts without end hit early in the window, where the
                            pCPU is still in the host
    outcomes                known posts by what became of them
    invisible_visits        of the unloaded ones that can't be excluded: stretches in
                            KVM that may hide a visit to userspace
    """

    name: str
    title: str
    unloaded_notifications: Bounds
    residual_notifications: Bounds
    wrong_vcpu: Bounds
    wrong_vcpu_if_evenly_spread: float
    known: dict[str, Bounds]
    outcomes: dict[str, Bounds]
    unloaded_by_reason: dict[str, Bounds]
    residual_by_state: dict[str, Bounds]
    residual_by_exit_reason: dict[str, Bounds]
    exposure: Exposed
    exposure_by_reason: dict[str, Exposed]
    exposure_by_vcpu: dict[str, Exposed]
    costs: dict[str, Bounds]
    contradictions: int
    invisible_visits: int = 0


@dataclass(slots=True)
class Group:
    """How many notifications were removed under one heading."""

    name: str
    removed: Bounds


@dataclass(slots=True)
class WindowLine:
    """One kind of window: whose, why it was put, and where notifications went."""

    vcpu: str
    reason: str
    cpu: int
    windows: int
    removed: Bounds
    longest_ns: int
    total_ns: int


@dataclass(slots=True)
class Removed:
    """What the second policy no longer sends, against the first.

    total      unloaded notifications
    host_irqs  of them: IRQs that the host would have taken
    """

    before: str
    after: str
    total: Bounds
    host_irqs: Bounds
    by_vm: list[Group]
    by_vcpu: list[Group]
    by_reason: list[Group]
    by_cpu: list[Group]
    windows: list[WindowLine]


@dataclass(slots=True)
class Summary:
    """A whole analysis, ready to be rendered."""

    schema_version: int
    piscope_version: str
    trace: TraceSummary
    question: Question
    vcpus: list[VcpuSummary]
    policies: dict[str, PolicySummary]
    removed: Removed | None
    narrowed: dict[str, str]
    cannot_tell: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain dicts, lists and numbers, in the order of the JSON."""
        from dataclasses import asdict

        return asdict(self)
