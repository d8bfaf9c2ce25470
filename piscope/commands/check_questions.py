"""Which questions a trace can answer, and what to record for the others.

What each question needs is in the catalog (piscope/events/catalog.py); here are the
reasons why a trace that has the events still can't answer.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from piscope.commands.survey import ISA_SVM, ISA_VMX, Survey
from piscope.events.catalog import CATALOG, PROBES, QUESTIONS, Question
from piscope.sources.raw import Loss, TraceInfo

__all__ = (
    "INTERRUPTS_COMMANDS",
    "PROBE_COMMANDS",
    "Answer",
    "blockers",
    "judge",
    "perf_command",
    "trace_cmd_command",
    "worth_recording",
)

Verdict = Literal["yes", "partly", "no"]

_STANDS_IN = {"kvm:kvm_apicv_accept_irq": "kvm_apic_accept_irq"}
# Before 5.15 the only sign of a post is the accept that precedes it.

PROBE_CONTROL_FIELD = "ctl"  # as piscope/timeline/probes.py reads it

PROBE_COMMANDS = (
    "# CTL: offset of pi_desc in struct vcpu_vmx (pahole -C vcpu_vmx, with the",
    "# kernel's debug information), plus 32",
    "cd /sys/kernel/tracing",
    "echo 'p:pi/pi_load vmx_vcpu_pi_load ctl=+CTL(%di):x64' >> kprobe_events",
    "echo 'p:pi/pi_put vmx_vcpu_pi_put ctl=+CTL(%di):x64' >> kprobe_events",
    "echo 'p:pi/pi_wakeup pi_wakeup_handler' >> kprobe_events",
)
"""What to do on the host before a recording with `-e pi`, to read descriptors.

vmx_vcpu_pi_load and vmx_vcpu_pi_put exist by name since 5.10.
"""


INTERRUPTS_COMMANDS = (
    "interrupts() { awk '",
    "    NR == 1 { n = split($0, cpu) }",
    "    /^ *(PIN|NPI|PIW):/ {",
    '        line = ""',
    "        for (i = 1; i <= n; i++) {",
    '            line = line " " substr(cpu[i], 4) "=" $(i + 1)',
    "            if (i % 32 == 0 || i == n) {",
    '                print "piscope-interrupts", substr($1, 1, 3) line',
    '                fflush(); line = ""',
    "            }",
    "        }",
    "    }' ${1:-/proc/interrupts} > ${2:-/sys/kernel/tracing/trace_marker}; }",
)
"""A shell function that writes the counters of notifications into the trace.

A marker holds at most 1,024 bytes, so that 32 pCPUs go into one.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a question can be answered.

    `missing` are the events (`system:name`, or a pattern of probes) without which it
    can't (verdict "no") or which would make the answer better ("partly"); `reasons`
    is everything else that stands against it, a clause each.
    """

    question: Question
    meaning: str
    verdict: Verdict
    missing: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def blockers(info: TraceInfo, losses: Sequence[Loss], seen: Survey) -> tuple[str, ...]:
    """Why the trace can answer no question at all, a clause each; empty: it may."""
    reasons = []
    if not seen.events:
        reasons.append("the trace holds no events")
    if info.is_guest:
        reasons.append("recorded inside a guest: record on the host")
    if seen.exits_by_isa[ISA_SVM] and not seen.exits_by_isa[ISA_VMX]:
        reasons.append("an SVM host: VMX posted interrupts are of Intel processors")
    if any(loss.cause == "sub-sampled" for loss in losses):
        reasons.append("not every event was recorded: record without -F and -c")
    return tuple(reasons)


def judge(
    info: TraceInfo, counts: Mapping[str, int], losses: Sequence[Loss], seen: Survey
) -> list[Answer]:
    """One answer a question, in the catalog's order.

    `counts` and `losses` are the source's after the pass that made `seen`. An event
    that is described but never happened counts as missing: a trace does not tell
    whether it was recorded.
    """
    names = {key.rpartition(":")[2] for key, count in counts.items() if count}
    against = blockers(info, losses, seen)
    doubts = tuple(_doubts(info, losses))
    answers = []
    for question in QUESTIONS:
        if question == "descriptor":
            answer = _about_probes(names, seen)
        else:
            answer = _about_events(question, names)
        if against:
            answer = _changed(answer, "no", against)
        elif doubts and answer.verdict != "no":
            answer = _changed(answer, "partly", doubts)
        answers.append(answer)
    return answers


def _about_events(question: Question, names: set[str]) -> Answer:
    meaning = QUESTIONS[question]
    serving = [t for t in CATALOG if question in t.needed_for]
    missing = [t for t in serving if t.name not in names]
    missing_keys = tuple(t.key for t in missing)
    for tracepoint in missing:
        if question not in tracepoint.essential:
            continue
        stand_in = _STANDS_IN.get(tracepoint.key)
        if stand_in not in names:
            return Answer(question, meaning, "no", missing_keys)
    if len(missing) == len(serving):
        return Answer(question, meaning, "no", missing_keys)
    return Answer(question, meaning, "partly" if missing else "yes", missing_keys)


def _about_probes(names: set[str], seen: Survey) -> Answer:
    meaning = QUESTIONS["descriptor"]
    found = [p for p in PROBES if fnmatch.filter(names, p)]
    if not found:
        return Answer("descriptor", meaning, "no", PROBES)
    if PROBE_CONTROL_FIELD not in seen.probe_fields:
        reason = (
            "the probes are there, but none reads the descriptor's control word"
            f" ({PROBE_CONTROL_FIELD}=)"
        )
        return Answer("descriptor", meaning, "partly", reasons=(reason,))
    return Answer("descriptor", meaning, "yes")


def _doubts(info: TraceInfo, losses: Sequence[Loss]) -> Iterable[str]:
    if losses:
        yield "events were lost"
    if info.ts_unit != "ns":
        yield f"the clock ({info.clock or 'unknown'}) does not count nanoseconds"


def _changed(answer: Answer, verdict: Verdict, reasons: tuple[str, ...]) -> Answer:
    return Answer(
        answer.question,
        answer.meaning,
        verdict,
        answer.missing,
        (*answer.reasons, *reasons),
    )


def worth_recording() -> tuple[str, ...]:
    """The events (`system:name`) that answer every question but the probes'."""
    return tuple(t.key for t in CATALOG if t.needed_for)


def trace_cmd_command(events: Iterable[str]) -> list[str]:
    """The trace-cmd command line that records the events on a whole host."""
    return ["trace-cmd", "record", *(a for key in events for a in ("-e", key))]


def perf_command(events: Iterable[str]) -> list[str]:
    """The perf command line that records every one of the events on a whole host."""
    return ["perf", "record", "-a", *(a for key in events for a in ("-e", key))]
