"""The account of a verification: what was compared, what agrees, and what does not.

Numbers and names only, in the shape of the JSON (docs/verify.md); no rendering
computes a number of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = (
    "SCHEMA_VERSION",
    "Account",
    "CandidateLine",
    "CounterLine",
    "Disagreement",
    "Event",
    "Group",
    "KindLine",
    "Reading",
)

SCHEMA_VERSION = 1
"""Of the JSON; a key that is renamed, removed, or changes its meaning raises it."""


@dataclass(slots=True)
class KindLine:
    """One kind of transition.

    kind          for people, as `put, preempted`
    transitions   how many
    agree         of them: with the verified policy on its platform
    exactly       of those: without any post that the trace does not hold
    by_kvm        by a post of KVM that the trace holds, or may lack
    by_hardware   by a post that leaves no event
    between_reads by a post between two reads of one probe
    rule          what the model leaves behind the commonest case, for people
    source        where the rule is from
    """

    kind: str
    transitions: int
    agree: int
    exactly: int
    by_kvm: int
    by_hardware: int
    between_reads: int
    rule: str
    source: str


@dataclass(slots=True)
class CandidateLine:
    """One policy on one platform, held against all transitions.

    policy         its name
    platform       "needs-pi-wakeup", "no-pi-wakeup" or "no-apicv"
    disagreements  transitions that it does not allow
    """

    policy: str
    platform: str
    disagreements: int


@dataclass(slots=True)
class Reading:
    """The descriptor as one probe read it.

    ts_ns      when
    cpu        the pCPU it ran on
    point      where the probe sits, for people
    on         ON
    sn         SN
    nv         NV
    ndst       as it stands in the descriptor; null: not read
    ndst_text  the same for people, with the pCPU that it names
    pir        vectors; null: not read
    """

    ts_ns: int
    cpu: int
    point: str
    on: bool
    sn: bool
    nv: int
    ndst: int | None
    ndst_text: str
    pir: list[int] | None


@dataclass(slots=True)
class Event:
    """One event near a disagreement.

    ts_ns   when
    cpu     the pCPU
    tid     the thread
    comm    its name; null: not known
    name    of the event
    fields  as the trace holds them, those that piscope reads
    mark    "before" or "after": it is that reading; null: neither
    """

    ts_ns: int
    cpu: int
    tid: int
    comm: str | None
    name: str
    fields: dict[str, Any]
    mark: str | None


@dataclass(slots=True)
class Disagreement:
    """One transition that the model does not allow.

    vcpu       the vCPU's label
    kind       as in KindLine
    fields     what differs from the nearest states that are allowed
    expected   field -> every value that is allowed
    observed   field -> what was read
    preempted  of a put: vcpu->preempted; null: not read, or no put
    blocking   likewise: whether the vCPU was blocking
    before     the reading before
    after      the reading that disagrees
    rule       what the model leaves behind, for people
    source     where the rule is from
    events     around it, on that pCPU or of that thread
    """

    vcpu: str
    kind: str
    fields: list[str]
    expected: dict[str, list[str]]
    observed: dict[str, str]
    preempted: bool | None
    blocking: bool | None
    before: Reading
    after: Reading
    rule: str
    source: str
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Group:
    """Disagreements of one kind, in the same fields, with the same SN and NV.

    kind         as in KindLine
    fields       what differs
    expected     field -> every value that is allowed, of the first
    observed     field -> what was read, of the first
    transitions  how many
    first_ns     when the first was read
    last_ns      and the last
    """

    kind: str
    fields: list[str]
    expected: dict[str, list[str]]
    observed: dict[str, str]
    transitions: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class CounterLine:
    """PIN or PIW of one pCPU over the capture; `within`: it lies in the range.

    counter    "PIN" or "PIW"
    cpu        the pCPU
    counted    by the kernel, in /proc/interrupts
    least      what the trace proves
    most       what it can't exclude; null: some puts, loads or windows were not read
    seen       by a probe on pi_wakeup_handler (PIW only); null: none
    """

    counter: str
    cpu: int
    counted: int
    least: int
    most: int | None
    seen: int | None

    @property
    def within(self) -> bool | None:
        """Whether the count lies in the range; None: can't be told."""
        if self.most is None:
            return None
        return self.least <= self.counted <= self.most


@dataclass(slots=True)
class Account:
    """A whole verification.

    schema_version  raised when a key is renamed, removed, or changes its meaning
    trace           as it was given
    format          of the file, for people
    kernel_release  `uname -r` of the traced host; null: not told
    vcpus           how many the probes hit
    asked           the policy that was named; null: it was to be found
    policy          what was verified; null: nothing could be
    policy_title    what that policy does, for people
    platform        on which platform; null: nothing was verified
    status          the exit status: 0 agrees, 1 disagrees, 3 can't tell
    verdict         one or two sentences
    probes          event as recorded -> where it sits
    hits            of those probes, of known vCPUs
    readings        of them: with a control word
    unknown_hits    of vCPUs that can't be told
    cuts            why chains of hits begin anew -> how often
    transitions     compared
    kinds           by kind
    by_trace        transitions whose answer depends on what no probe read (the guest's
                    IF), decided by what was seen
    by_trace_armed  of them: those that armed the wakeup vector
    candidates      each policy and platform
    rivals          policy -> transitions that agree with the verified one and not it
    separating      what would tell candidates apart that fit equally, sentences
    apic_ids        pCPU -> NDST
    apic_form       how NDST holds an APIC id
    disagreements   how many transitions
    groups          of disagreements
    listed          the disagreements that are shown one by one
    counters        PIN and PIW
    remarks         what else should be known, sentences
    """

    schema_version: int
    trace: str
    format: str
    kernel_release: str | None
    vcpus: int
    asked: str | None
    policy: str | None
    policy_title: str
    platform: str | None
    status: int
    verdict: str
    probes: dict[str, str]
    hits: int
    readings: int
    unknown_hits: int
    cuts: dict[str, int]
    transitions: int
    by_trace: int
    by_trace_armed: int
    kinds: list[KindLine] = field(default_factory=list)
    candidates: list[CandidateLine] = field(default_factory=list)
    rivals: dict[str, int] = field(default_factory=dict)
    separating: list[str] = field(default_factory=list)
    apic_ids: dict[int, int] = field(default_factory=dict)
    apic_form: str = "not told"
    disagreements: int = 0
    groups: list[Group] = field(default_factory=list)
    listed: list[Disagreement] = field(default_factory=list)
    counters: list[CounterLine] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The account as plain dicts, lists and numbers, in the order of the JSON."""
        from dataclasses import asdict

        result = asdict(self)
        for line, counter in zip(result["counters"], self.counters, strict=True):
            line["within"] = counter.within
        result["apic_ids"] = {str(cpu): ndst for cpu, ndst in self.apic_ids.items()}
        return result
