"""The one object that every rendering of an analysis is made from.

`Summary` holds numbers and names only, in the shape of the documented JSON
(`docs/json.md`); no rendering computes a number of its own, so that no two disagree.

A range has `min` and `max`: what the trace proves, and what it can't exclude.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from piscope.report.rates_report import Counters, Rates
from piscope.report.summary_parts import Bounds, Handler, Observed

__all__ = (
    "SCHEMA_VERSION",
    "Bounds",
    "Exposed",
    "Group",
    "Handler",
    "LossLine",
    "Observed",
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
class LossLine:
    """One cause of loss.

    cause   a word of sources.raw.LossCause
    times   in how many places
    events  lost in all of them; null: not known
    cpus    pCPUs concerned; empty: all, or not known
    detail  the first place, for people
    """

    cause: str
    times: int
    events: int | None
    cpus: list[int]
    detail: str


@dataclass(slots=True)
class VcpuSummary:
    """One vCPU, and its time by what it did.

    label           a short name for people, unique as a rule; `--vcpu` takes it
    vm              number of its VM, by first appearance; null: not known
    vcpu_id         KVM's number within the VM; null: not known
    tid             its thread
    tgid            the thread's process; null: not known
    comm            the thread's name; null: not known
    evidence        what tells that it is one: "kvm_entry", "kvm_exit", "guest-option"
                    or "comm"
    time_ns         by kind of interval; they sum to the trace's duration
    puts            by put reason
    entries         VM-entries
    uncertain_puts  puts whose reason or instant is not certain
    """

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
    """What was analyzed.

    path             as it was given
    format           of the file, for people
    kernel_release   `uname -r` of the traced host; null: not told
    clock            the trace clock's name; null: not told
    ts_resolution_ns 1, or 1000 for texts that print microseconds
    start_ns         first instant, on the trace's clock
    end_ns           last instant
    duration_ns      from the first to the last
    cpus             pCPUs with events
    host_cpus        pCPUs that the host has; null: not told
    vms              how many; null: the trace does not tell which vCPUs go together
    events           in the trace, without those ignored or narrowed away
    events_used      of them: those that the analysis reads
    losses           what the trace tells that it lost, one a cause
    captured_policy  the policy of the captured kernel; null: not known
    captured_policy_by        "probes", "release" or "nothing"
    captured_policy_evidence  what was seen, for people
    posting_by_hardware  whether the host posted by hardware; null: no probe tells
    probes           events on vmx_vcpu_pi_load and vmx_vcpu_pi_put that were used
    notes            remarks of the reader, for people
    """

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

    posted        words of `--posted`, joined by commas: "msi", "vfio,ipi"; "auto" is
                  replaced by what it meant
    as_hardware   posts by KVM that were replayed as hardware's
    as_software   posts by KVM that stayed such
    from_windows  posts by hardware that probes betray
    not_posted    accepts that never went through PIR (APICv off)
    no_target     posts to a vcpu_id that several vCPUs have
    text          one sentence for people
    replayed_with the options `fastpath` and `platform`, as given
    reinterpreted those replayed as hardware's, by origin
    kept          those that stayed KVM's, by origin
    given         posts that the user gave, in none of these counts
    """

    posted: str
    as_hardware: int
    as_software: int
    from_windows: int
    not_posted: int
    no_target: int
    text: str
    replayed_with: dict[str, str] = field(default_factory=dict)
    reinterpreted: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    given: int = 0


@dataclass(slots=True)
class Exposed:
    """Windows (put to load) of some vCPUs that began with SN=0 and NV=0xF2.

    windows      how many
    duration_ns  of all of them
    longest_ns   of those that can't be excluded
    """

    windows: Bounds
    duration_ns: Bounds
    longest_ns: int


@dataclass(slots=True)
class PolicySummary:
    """One policy's outcome.

    name                    as `--policy` takes it
    title                   what the policy does, for people
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
    unloaded_by_reason      known unloaded ones, by why the vCPU was put
    residual_by_state       known residual ones, by what the vCPU was doing
    residual_by_exit_reason the same, by the number of the VM-exit it was handling
    exposure                all windows that are open to a notification
    exposure_by_reason      the same by put reason, without the closed ones
    exposure_by_vcpu        the same by the vCPU's label
    costs                   of the loads and puts
    contradictions          stimuli that no state of the descriptor allowed: places
                            where the trace misses something that no loss tells of
    hidden_windows          of the unloaded ones that can't be excluded: in windows that
                            no event shows (visits to userspace, and losses)
    lost_windows            of these: in lost stretches whose place is known, at most
                            one a lost event and one in 500 ns of a pCPU
    host_irqs               known notifications 0xF2 that the host takes as IRQs, those
                            that are latched together counted once
    coalesced               known ones that met 0xF2 latched already on the same pCPU:
                            no IRQ of their own
    rows                    known posts by what their vCPU was doing, as rows of the
                            state table (`pi_semantics`, 8.1); `5|9` where the trace
                            can't tell rows apart
    not_certain             known posts whose outcome the trace leaves open
    as_if                   in what way the replay is not what a kernel of that policy
                            would have shown, for people; empty: nothing to say
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
    hidden_windows: int = 0
    lost_windows: int = 0
    host_irqs: Bounds = field(default_factory=Bounds)
    coalesced: Bounds = field(default_factory=Bounds)
    rows: dict[str, int] = field(default_factory=dict)
    not_certain: int = 0
    as_if: str = ""


@dataclass(slots=True)
class Group:
    """How many notifications were removed under one heading.

    name     of the VM, vCPU, put reason or pCPU
    removed  known posts whose notification the first policy sends and the second not
    """

    name: str
    removed: Bounds


@dataclass(slots=True)
class WindowLine:
    """One kind of window that is open under the first policy and not under the second.

    vcpu        the vCPU's label
    reason      the put reason
    cpu         the pCPU that notifications went to: that of the last load
    windows     how many
    removed     notifications in them that the second policy does not send
    longest_ns  the longest of them
    total_ns    all of them
    """

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

    before     the first policy's name
    after      the second's
    total      unloaded notifications by known posts
    host_irqs  of them: IRQs that the host would have taken
    by_vm      those of each VM, most first
    by_vcpu    of each vCPU
    by_reason  of each put reason
    by_cpu     of each notified pCPU
    windows    the kinds of window with most of them
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
    """A whole analysis, ready to be rendered.

    schema_version   raised when a key is renamed, removed, or changes its meaning
    piscope_version  that made it
    trace            what was analyzed
    question         which question was answered
    vcpus            those that were selected
    policies         by name, in the order asked for
    removed          the second policy against the first; null: not two policies
    narrowed         the options that narrowed the report, as given
    cannot_tell      what the trace could not show, a sentence each
    handlers         the VM-exit reasons, most known residual notifications first
    observed         notifications that left an event; null: not looked for
    rates            posts at a rate; the key is there only if they were asked for
    counters         PIN and PIW; likewise, or with markers in the trace
    """

    schema_version: int
    piscope_version: str
    trace: TraceSummary
    question: Question
    vcpus: list[VcpuSummary]
    policies: dict[str, PolicySummary]
    removed: Removed | None
    narrowed: dict[str, str]
    cannot_tell: list[str] = field(default_factory=list)
    handlers: list[Handler] = field(default_factory=list)
    observed: Observed | None = None
    rates: Rates | None = None
    counters: Counters | None = None

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain dicts, lists and numbers, in the order of the JSON."""
        from dataclasses import asdict

        asked = ("rates", "counters")
        values = asdict(self)
        return {k: v for k, v in values.items() if v is not None or k not in asked}
