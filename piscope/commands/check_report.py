"""What `piscope check` found, as lines of 80 columns or as JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from piscope.commands.check_questions import (
    INTERRUPTS_COMMANDS,
    PROBE_COMMANDS,
    Answer,
    blockers,
    perf_command,
    trace_cmd_command,
    worth_recording,
)
from piscope.commands.event_text import comm_of, seconds_text
from piscope.commands.losses import loss_lines
from piscope.commands.survey import ISA_SVM, ISA_VMX, Survey
from piscope.sources.raw import Loss, TraceInfo

__all__ = ("Check", "as_json", "as_lines")

_WIDTH = 80
_MARGIN = 12
_TIE = "\N{NO-BREAK SPACE}"  # a blank at which no line is broken
_MOST_EVENTS = 40
_MOST_VCPUS = 16


@dataclass(frozen=True, slots=True)
class Check:
    """Everything that is known of a trace without analyzing it."""

    info: TraceInfo
    counts: dict[str, int]
    losses: list[Loss]
    seen: Survey
    answers: list[Answer]

    @property
    def host(self) -> str | None:
        """ "vmx", "svm", "guest" for a trace of a guest; None: no event tells."""
        if self.info.is_guest:
            return "guest"
        if self.seen.exits_by_isa[ISA_VMX]:
            return "vmx"
        return "svm" if self.seen.exits_by_isa[ISA_SVM] else None


def as_json(check: Check) -> dict[str, Any]:
    """The report as plain values; instants and lengths in the trace's clock.

    The keys and their meanings stay as they are within a `schema_version`.
    """
    info, seen = check.info, check.seen
    return {
        "schema_version": 1,
        "path": info.path,
        "format": info.format,
        "kind": info.kind,
        "size_bytes": info.size_bytes,
        "kernel_release": info.kernel_release,
        "clock": info.clock,
        "ts_unit": info.ts_unit,
        "ts_resolution_ns": info.ts_resolution_ns,
        "command": info.command,
        "host": check.host,
        "events": seen.events,
        "first_ns": seen.first_ns,
        "last_ns": seen.last_ns,
        "duration_ns": seen.duration_ns,
        "host_cpus": info.host_cpus,
        "cpus": {str(cpu): asdict(span) for cpu, span in sorted(seen.cpus.items())},
        "counts": dict(sorted(check.counts.items())),
        "vcpu_threads": [
            {
                "tid": tid,
                "comm": comm_of(info.comms, tid),
                "tgid": info.tgids.get(tid),
                "vcpu_ids": sorted(ids),
            }
            for tid, ids in sorted(seen.vcpu_threads.items())
        ],
        "losses": [asdict(loss) for loss in check.losses],
        "notes": list(info.notes),
        "questions": [
            {
                **asdict(answer),
                "trace_cmd": _joined(trace_cmd_command, _tracepoints(answer.missing)),
                "perf": _joined(perf_command, _tracepoints(answer.missing)),
            }
            for answer in check.answers
        ],
        "record": {
            "trace_cmd": shlex.join(trace_cmd_command(worth_recording())),
            "perf": shlex.join(perf_command(worth_recording())),
            "probes": list(PROBE_COMMANDS),
            "interrupts": list(INTERRUPTS_COMMANDS),
        },
    }


def as_lines(check: Check) -> Iterator[str]:
    """The report for people: facts, questions, and how to record what is missing."""
    for label, values in _facts(check):
        for i, value in enumerate(values):
            yield from _wrapped(value, f"{'' if i else label:<{_MARGIN}}")
    yield ""
    blocked = blockers(check.info, check.losses, check.seen)
    if blocked:
        yield from _wrapped(f"It can answer no question: {'; '.join(blocked)}", "")
        if check.host == "svm":
            return
    else:
        yield "Questions that it can answer (an event that never happened looks like"
        yield "one that was not recorded)"
        for answer in check.answers:
            yield from _answer_lines(answer)
        if all(answer.verdict == "yes" for answer in check.answers):
            return
    yield ""
    yield "To answer all of them, record on the host with trace-cmd or with perf"
    for command in (trace_cmd_command, perf_command):
        yield ""
        yield from _command_lines(command(worth_recording()))
    if any(a.question == "descriptor" and a.verdict != "yes" for a in check.answers):
        yield ""
        yield "and for the descriptor, before that, and with one more `-e pi`,"
        yield ""
        yield from (f"    {line}" for line in PROBE_COMMANDS)
    yield ""
    yield "For `piscope analyze` to compare with what the kernel counted (PIN and PIW"
    yield "of /proc/interrupts), write that into the trace, first and last: in bash,"
    yield "and with trace-cmd"
    yield ""
    yield from (f"    {line}" for line in INTERRUPTS_COMMANDS)
    yield "    export -f interrupts"
    yield "    trace-cmd record ... bash -c 'interrupts; sleep 10; interrupts'"
    yield ""
    yield "With perf, copy /proc/interrupts before and after, for --interrupts."


def _facts(check: Check) -> Iterator[tuple[str, list[str]]]:
    info, seen = check.info, check.seen
    size = f", {info.size_bytes:,} bytes" if info.size_bytes is not None else ""
    yield "trace", [info.path]
    yield "format", [f"{info.format}{size}"]
    yield "kernel", [info.kernel_release or "not told"]
    yield "host", [_HOSTS[check.host]]
    yield "clock", [_clock(info)]
    yield "time", [_time(info, seen)]
    if info.command:
        yield "command", [info.command]
    yield "pCPUs", [_cpus(info, seen)]
    yield "vCPUs", list(_vcpus(info, seen))
    yield "events", list(_events(check))
    yield "lost", list(loss_lines(check.losses)) or ["nothing that the trace tells of"]
    if info.notes:
        yield "notes", list(info.notes)


_HOSTS = {
    "vmx": "VMX (Intel)",
    "svm": "SVM (AMD): it has no VMX posted interrupts",
    "guest": "none: recorded inside a guest",
    None: "not told: no kvm_exit says whether it is VMX or SVM",
}


def _clock(info: TraceInfo) -> str:
    name = info.clock or "not told"
    if info.ts_unit != "ns":
        return f"{name}, counts {info.ts_unit} instead of nanoseconds"
    if info.ts_resolution_ns > 1:
        return f"{name}, rounded to {info.ts_resolution_ns:,} ns"
    return f"{name}, in nanoseconds"


def _time(info: TraceInfo, seen: Survey) -> str:
    if seen.first_ns is None or seen.last_ns is None:
        return "no events"
    if info.ts_unit != "ns":
        return f"{seen.duration_ns:,} {info.ts_unit}, from {seen.first_ns}"
    digits = 6 if info.ts_resolution_ns == 1000 else 9
    length, first, last = (
        seconds_text(ns, digits)
        for ns in (seen.duration_ns, seen.first_ns, seen.last_ns)
    )
    return f"{length} s, from {first} to {last}"


def _cpus(info: TraceInfo, seen: Survey) -> str:
    of = f" of {info.host_cpus}" if info.host_cpus is not None else ""
    return f"{len(seen.cpus)}{of} with events"


def _vcpus(info: TraceInfo, seen: Survey) -> Iterator[str]:
    if not seen.vcpu_threads:
        yield "none seen"
        return
    threads = sorted(seen.vcpu_threads.items(), key=lambda item: (item[0], *item[1]))
    for tid, ids in threads[:_MOST_VCPUS]:
        comm = comm_of(info.comms, tid) or "?"
        yield f"vcpu_id {','.join(map(str, sorted(ids)))} is thread {tid} ({comm})"
    if len(threads) > _MOST_VCPUS:
        yield f"and {len(threads) - _MOST_VCPUS} more"


def _events(check: Check) -> Iterator[str]:
    kinds = sorted(check.counts.items(), key=lambda item: (-item[1], item[0]))
    yield f"{check.seen.events:,} of {len(kinds)} kinds"
    for key, count in kinds[:_MOST_EVENTS]:
        yield f"{count:>11,}  {key.removeprefix(':')}"
    if len(kinds) > _MOST_EVENTS:
        rest = sum(count for _, count in kinds[_MOST_EVENTS:])
        yield f"{rest:>11,}  in {len(kinds) - _MOST_EVENTS} more kinds"


def _answer_lines(answer: Answer) -> Iterator[str]:
    yield from _wrapped(answer.meaning, f"  {answer.verdict:<7} {answer.question:<11} ")
    margin = " " * 10
    for reason in answer.reasons:
        yield from _wrapped(reason, margin)
    if answer.missing:
        lead = "needs" if answer.verdict == "no" else "better with"
        add = " ".join(f"-e{_TIE}{key}" for key in _tracepoints(answer.missing))
        yield from _wrapped(f"{lead} {add or 'the probes below'}", margin)


def _tracepoints(missing: Iterable[str]) -> list[str]:
    return [key for key in missing if "*" not in key]


def _joined(command: Callable[[list[str]], list[str]], events: list[str]) -> str | None:
    return shlex.join(command(events)) if events else None


def _command_lines(words: list[str]) -> Iterator[str]:
    # Breaks between options only, so that a line can be read and the whole pasted.
    tied = shlex.join(words).replace("-e ", f"-e{_TIE}")
    *lines, last = _wrap(tied, _WIDTH - 2, "    ", "        ")
    yield from (f"{line} \\" for line in lines)
    yield last


def _wrapped(text: str, first: str) -> list[str]:
    printable = "".join(
        c if c.isprintable() or c == _TIE else repr(c)[1:-1] for c in text
    )
    if printable.startswith(" "):  # a column of numbers
        return [first + printable]
    return _wrap(printable, _WIDTH, first, " " * len(first)) or [first.rstrip()]


def _wrap(text: str, width: int, first: str, others: str) -> list[str]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_TIE, " ") for line in lines]
