"""What is told of one notification: the object that every form of it is made from.

which it is          Notification
what became of it    Verdict, one a policy
the events around    EventLine
the descriptor       Step, with a Change for each policy
what decided         Deciding, RuleLine
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = (
    "Account",
    "Change",
    "Deciding",
    "Descriptor",
    "EventLine",
    "Notification",
    "RowLine",
    "RuleLine",
    "State",
    "Step",
    "Verdict",
)

SCHEMA_VERSION = 1
"""Of the JSON; a key that is renamed, removed, or changes its meaning raises it."""


@dataclass(frozen=True, slots=True)
class Notification:
    """The post that may have sent one.

    vcpu      label of its target
    tid       the target's thread
    comm      that thread's name; null: not known
    vector    null: not known
    agent     "hardware" or "kvm"
    as_if     KVM posted it, and hardware is assumed to have
    evidence  the event that shows it; "probes": a descriptor that changed; "given": by
              the user
    origin    who had it posted (a word of origins.Origin); null: by hardware
    origin_text  the same for people, with what tells it; "": null
    ts_ns     its instant; where only the probes betray it, that of the put
    after_ns  time from the trace's first event to it
    until_ns  it lies between ts_ns and this; null: the instant is known
    doing     what the vCPU did, for people
    poster    the thread and pCPU it was posted on, for people; "": not told
    stimulus  its number in STIMULI
    findings  by policy: its row in FINDINGS of `piscope report` with those policies
    """

    vcpu: str
    tid: int
    comm: str | None
    vector: int | None
    agent: str
    as_if: bool
    evidence: str
    origin: str | None
    origin_text: str
    ts_ns: int
    after_ns: int
    until_ns: int | None
    doing: str
    poster: str
    stimulus: int
    findings: dict[str, int]


@dataclass(frozen=True, slots=True)
class RowLine:
    """One row of the state table.

    row   its number, or 6'
    text  what the vCPU was doing, for people
    """

    row: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of it under one policy.

    policy     its name
    title      what the policy does, for people
    hit        a word of outcomes.Hit; null: several are possible
    possible   all that the trace allows
    text       the same for people, without the place of a probe
    certain    one outcome, whatever the trace leaves open
    doubts     why it is not certain, a sentence each
    cpu        the pCPU that was notified; null: none
    victim     label of the vCPU in whose guest mode it was taken; null
    coalesced  whether 0xF2 was latched there already; null: not told
    rows       of the state table that are possible
    """

    policy: str
    title: str
    hit: str | None
    possible: list[str]
    text: str
    certain: bool
    doubts: list[str]
    cpu: int | None
    victim: str | None
    coalesced: bool | None
    rows: list[RowLine]


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event near it.

    position   where in the file: "line 12", "byte 4711", "chunk byte 184324", or
               "record 12" where it is at no byte of its own
    ts_ns      on the trace's clock
    offset_ns  from the notification
    cpu        the pCPU that recorded it
    tid        the thread that ran
    comm       its name; null: not known
    seq        number in the pCPU's buffer, in the file, or the line of a text
    event      its name
    fields     as decoded, by name
    text       the same for people
    steps      numbers of the steps that rest on it
    gap        events are left out before it
    """

    position: str
    ts_ns: int
    offset_ns: int
    cpu: int
    tid: int
    comm: str | None
    seq: int
    event: str
    fields: dict[str, Any]
    text: str
    steps: list[int]
    gap: bool


@dataclass(frozen=True, slots=True)
class State:
    """One state that a descriptor may be in.

    on   Outstanding Notification
    sn   Suppress Notification
    nv   notification vector: 0xf2 (242), or 0xf1 (241), the wakeup vector
    pir  PIR is not empty
    """

    on: bool
    sn: bool
    nv: int
    pir: bool


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The states that it may be in.

    states   each once
    vectors  known ones in PIR, where it is not empty
    others   PIR may hold more that are not known
    ndst     pCPUs that NDST may name; empty: not known
    """

    states: list[State]
    vectors: list[int]
    others: bool
    ndst: list[int]


@dataclass(frozen=True, slots=True)
class Change:
    """What a step does under one policy.

    before         the descriptor that it meets
    after          the one that it leaves
    effects        what is sent, or why nothing is; " or " where it is not certain
    contradiction  no possible state allows the step: the trace missed something
    """

    before: Descriptor
    after: Descriptor
    effects: list[str]
    contradiction: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the descriptor met.

    number    from 1
    stimulus  its number in STIMULI; null: in a slice of a long trace next to that of
              the notification
    letter    a word of model.letters.Letter
    text      the same for people
    ts_ns     its event's instant
    offset_ns  from the notification
    is_post   it is the notification's own post
    skipped   steps that are left out before it
    policies  by policy
    """

    number: int
    stimulus: int | None
    letter: str
    text: str
    ts_ns: int
    offset_ns: int
    is_post: bool
    skipped: int
    policies: dict[str, Change]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule of the model, with its source; a switch of a policy is one too.

    name      as `piscope model explain` takes it
    rule      what it says
    source    kernel function, patch or specification
    function  where the model has it; null: a switch
    caveat    what about it is not verified; null: nothing
    """

    name: str
    rule: str
    source: str
    function: str | None
    caveat: str | None


@dataclass(frozen=True, slots=True)
class Deciding:
    """Why it went that way under one policy.

    policy  its name
    text    what the post met, and what had left it so
    step    the number of the step that did; null: none that is told
    """

    policy: str
    text: str
    step: int | None


@dataclass(slots=True)
class Account:
    """The whole story, ready to be rendered.

    schema_version  raised when a key is renamed, removed, or changes its meaning
    piscope_version  that made it
    trace     its path, as given
    format    of the file, for people
    kernel_release  of the traced host; null: not told
    captured_policy  the policy of the captured kernel; null: not known
    clock_ns  whether instants are ns; false: counts of the trace's clock
    found_by  how the notification was chosen, for people
    question  which posts were replayed as hardware's, for people
    notification  which it is
    verdicts  what became of it, one a policy
    events    around it, by time
    steps     that the descriptor took, in order
    deciding  why it went as it did
    rules     that had a part in it
    notes     what else should be known
    """

    schema_version: int
    piscope_version: str
    trace: str
    format: str
    kernel_release: str | None
    captured_policy: str | None
    clock_ns: bool
    found_by: str
    question: str
    notification: Notification
    verdicts: list[Verdict]
    events: list[EventLine]
    steps: list[Step]
    deciding: list[Deciding]
    rules: list[RuleLine]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The account as plain dicts, lists and numbers, in the order of the JSON."""
        from dataclasses import asdict

        return asdict(self)
