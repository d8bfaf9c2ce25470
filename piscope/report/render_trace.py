"""What was analyzed: the trace, what it lost, and how its vCPUs spent their time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piscope.report.render_layout import Grid, facts, heading, note
from piscope.report.render_words import (
    KIND_HEADINGS,
    REASON_WORDS,
    cpu_list,
    duration_text,
    share_text,
)
from piscope.report.summary import LossLine, Summary, TraceSummary, VcpuSummary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("MOST_VCPUS", "trace_section", "vcpu_section")

MOST_VCPUS = 16
"""vCPUs that one table lists; all are in the JSON."""

_WIDE = 100


def trace_section(summary: Summary) -> Iterator[RenderableType]:
    """Format, kernel and policy, duration, CPUs, VMs, vCPUs, events, losses."""
    trace = summary.trace
    rows = [
        ("format", trace.format),
        ("kernel", trace.kernel_release or "not told"),
        ("policy", _policy(trace)),
        ("posting", _posting(trace)),
        ("duration", _duration(trace)),
        ("pCPUs", _pcpus(trace)),
        ("vCPUs", _vcpus(summary)),
        ("events", f"{trace.events:,}, of which {trace.events_used:,} were used"),
        *_labeled("lost", [_loss(loss) for loss in trace.losses] or [_NO_LOSS]),
        *_labeled("notes", trace.notes),
    ]
    yield heading("What was analyzed")
    yield facts(rows)


_NO_LOSS = "nothing that the trace tells of"


def _labeled(label: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for i, text in enumerate(texts):
        yield "" if i else label, text


def _policy(trace: TraceSummary) -> str:
    if trace.captured_policy is None:
        return f"of the captured kernel: not known ({trace.captured_policy_evidence})"
    return f"of the captured kernel: {trace.captured_policy} ({_evidence(trace)})"


def _evidence(trace: TraceSummary) -> str:
    if trace.captured_policy_by == "probes":
        return f"probes: {trace.captured_policy_evidence}"
    return trace.captured_policy_evidence


def _posting(trace: TraceSummary) -> str:
    if trace.posting_by_hardware is None:
        return "by hardware (VT-d, IPI virtualization): not told, no probe reads ON"
    if trace.posting_by_hardware:
        return "by hardware (VT-d, IPI virtualization): yes, the probes show it"
    return "by KVM only: the probes show that nothing else could"


def _duration(trace: TraceSummary) -> str:
    clock = f"clock {trace.clock}" if trace.clock else "clock not told"
    coarse = trace.ts_resolution_ns
    rounded = f", rounded to {duration_text(coarse)}" if coarse > 1 else ""
    return f"{duration_text(trace.duration_ns)} ({clock}{rounded})"


def _pcpus(trace: TraceSummary) -> str:
    of = f" of {trace.host_cpus}" if trace.host_cpus is not None else ""
    which = f": {cpu_list(trace.cpus)}" if trace.cpus else ""
    return f"{len(trace.cpus)}{of} with events{which}"


def _vcpus(summary: Summary) -> str:
    seen = sum(1 for vcpu in summary.vcpus if _active(vcpu))
    vms = summary.trace.vms
    if vms is None:
        of = " (which VM each belongs to is not told)"
    else:
        chosen = len({vcpu.vm for vcpu in summary.vcpus})
        of = f" of {chosen} of the trace's VMs" if chosen < vms else f" of {vms} VMs"
        of = " of 1 VM" if vms == 1 else of
    idle = len(summary.vcpus) - seen
    silent = f", and {idle:,} without any event" if idle else ""
    return f"{seen:,}{of}{silent}"


def _loss(loss: LossLine) -> str:
    events = "an unknown number" if loss.events is None else f"{loss.events:,}"
    places = f" in {loss.times:,} places" if loss.times > 1 else ""
    cpus = f", pCPU {cpu_list(loss.cpus)}" if loss.cpus else ""
    detail = f" ({loss.detail})" if loss.detail else ""
    return f"{loss.cause.replace('-', ' ')}: {events}{places}{cpus}{detail}"


def _active(vcpu: VcpuSummary) -> bool:
    return bool(vcpu.entries or vcpu.puts)


def vcpu_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """Each vCPU's time by what it did, and how often it was put, and why."""
    active = [vcpu for vcpu in summary.vcpus if _active(vcpu)]
    yield heading("What the vCPUs did, in percent of the trace's time")
    if not active:
        yield note("no vCPU has an event in what was analyzed")
        return
    shown = sorted(active, key=_busy, reverse=True)[:MOST_VCPUS]
    shown.sort(key=active.index)
    kinds = [k for k in KIND_HEADINGS if any(v.time_ns.get(k) for v in active)]
    wide = width >= _WIDE
    extra = ("name", "thread", "entries") if wide else ()
    grid = Grid(("vCPU", *extra, *(KIND_HEADINGS[k] for k in kinds)), 1 + wide)
    for vcpu in shown:
        more = (vcpu.comm or "?", str(vcpu.tid), f"{vcpu.entries:,}") if wide else ()
        shares = (share_text(vcpu.time_ns.get(k, 0), _total(vcpu)) for k in kinds)
        grid.add(vcpu.label, *more, *shares)
    yield grid.render(width)
    if len(active) > len(shown):
        yield note(f"and {len(active) - len(shown):,} less busy ones (--json)")
    yield from _puts(shown, width)


def _puts(vcpus: list[VcpuSummary], width: int) -> Iterator[RenderableType]:
    reasons = [r for r in REASON_WORDS if any(v.puts.get(r) for v in vcpus)]
    if not reasons:
        return
    heads = (r.replace("-", "\n") for r in reasons)
    grid = Grid(("put because", *heads, "not\nsure", "all"))
    for v in vcpus:
        counts = (f"{v.puts.get(r, 0):,}" for r in reasons)
        grid.add(v.label, *counts, f"{v.uncertain_puts:,}", f"{sum(v.puts.values()):,}")
    yield note("")
    yield grid.render(width)


def _total(vcpu: VcpuSummary) -> int:
    return sum(vcpu.time_ns.values())


def _busy(vcpu: VcpuSummary) -> int:
    return vcpu.entries + sum(vcpu.puts.values())
