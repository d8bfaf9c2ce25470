"""The words and numbers of a report for people: labels spelled out, sizes with units.

Keys are those of `Summary`; a test holds each table to the enum it spells out.
"""

from __future__ import annotations

from piscope.events.vmx_exits import BASIC_REASON_MASK, VmxExit
from piscope.report.summary import Bounds

__all__ = (
    "COST_WORDS",
    "KIND_HEADINGS",
    "OUTCOME_WORDS",
    "REASON_WORDS",
    "STATE_WORDS",
    "bounds_text",
    "cpu_list",
    "difference_text",
    "duration_text",
    "durations_text",
    "exit_reason_name",
    "printable",
    "share_text",
)

OUTCOME_WORDS = {
    "guest": "delivered in guest mode",
    "latched": "latched until the VM-entry",
    "wakeup": "wakeup of the blocked vCPU",
    "host": "spurious in the host, vCPU loaded",
    "unloaded-host": "spurious in the host",
    "wrong-vcpu": "wrong vCPU: another's guest mode",
    "silent-on": "silenced by ON: one is pending",
    "silent-sn": "silenced by SN",
    "silent-pir": "silenced by PIR: vector is pending",
    "software": "by KVM, which sent no IRQ",
    "unknown": "unknown: timeline not sure",
    "guest-exit": "VM-exit and IRQ: L2, or no APICv",
}
"""PolicySummary.outcomes, in the order in which they are told."""

REASON_WORDS = {
    "userspace": "in userspace",
    "asleep": "asleep in KVM",
    "blocking": "blocked (HLT)",
    "blocking-irqs-blocked": "blocked with IF=0",
    "blocking-preempted": "preempted while blocking",
    "preempted": "preempted",
    "runnable": "yielding, runnable",
    "ioctl": "after another vCPU ioctl",
    "unknown": "put for unknown reason",
}
"""Put reasons, as what the vCPU did while it was not loaded."""

STATE_WORDS = {
    "host": "handling an exit, IRQs on",
    "host-irqs-off": "IRQs off next to guest mode",
    "poll": "halt-polling",
    "guest": "leaving guest mode",
    "userspace": "on its way to userspace",
    "preempted": "being switched in or out",
    "blocked": "about to block, or waking",
    "asleep": "about to sleep, or waking",
    "unknown": "doing something unknown",
    "before-put": "ON seen at a put, post unseen",
}
"""PolicySummary.residual_by_state: what a loaded vCPU did in the host."""

KIND_HEADINGS = {
    "guest": "guest",
    "host": "KVM",
    "host-irqs-off": "IRQs\noff",
    "poll": "poll",
    "userspace": "user-\nspace",
    "preempted": "pre-\nempted",
    "blocked": "blocked",
    "asleep": "asleep",
    "unknown": "unknown",
}
"""VcpuSummary.time_ns, as headings of narrow columns."""

COST_WORDS = {
    "pir_scans": "PIR scans",
    "empty_scans": "of them in vain: PIR was empty",
    "locked_ops": "locked operations",
    "list_locks": "wakeup list locks",
}
"""PolicySummary.costs."""

_UNITS = (
    (999_950_000, 10**9, "s", 3),
    (999_950, 10**6, "ms", 1),
    (10**3, 10**3, "us", 1),
)
# From so many ns on: 999,960 ns would round to 1000.0 us.


def duration_text(duration_ns: int) -> str:
    """A length of time with the unit that suits its size: `1.002 s`, `3.2 ms`."""
    if duration_ns >= 1000 * 10**9:
        return f"{duration_ns / 10**9:,.0f} s"
    for least_ns, unit_ns, unit, decimals in _UNITS:
        if duration_ns >= least_ns:
            return f"{duration_ns / unit_ns:.{decimals}f} {unit}"
    return f"{duration_ns} ns" if duration_ns else "0"


def durations_text(range_ns: Bounds) -> str:
    """The same of a range."""
    least, most = duration_text(range_ns.min), duration_text(range_ns.max)
    return least if least == most else f"{least} to {most}"


def bounds_text(bounds: Bounds) -> str:
    """A count, or a range of counts, with thousands separators: `1,002 to 1,250`."""
    return str(bounds)


def difference_text(difference: Bounds, *, same_range: bool = False) -> str:
    """A signed difference: `-250`, `0`, `-9 to +5`.

    `same_range`: both sides are the same range, whose difference would tell nothing.
    """
    if same_range:
        return "same range"
    if difference.min == difference.max:
        return _signed(difference.min)
    return f"{_signed(difference.min)} to {_signed(difference.max)}"


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"


def share_text(part: int, whole: int) -> str:
    """A percentage with one decimal, without its sign; `<0.1` for a little, not 0.0."""
    if not part or not whole:
        return "0"
    percent = 100 * part / whole
    return f"{percent:.1f}" if percent >= 0.05 else "<0.1"


def exit_reason_name(code: str) -> str:
    """The kernel's name of a VM-exit reason that is a key of the JSON (a number)."""
    try:
        return VmxExit(int(code) & BASIC_REASON_MASK).name
    except ValueError:
        return f"exit reason {code}"


def cpu_list(cpus: list[int], most: int = 12) -> str:
    """Ascending pCPUs as ranges: `0-3,5`, cut after `most` of those."""
    spans: list[list[int]] = []
    for cpu in cpus:
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    text = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans[:most])
    return f"{text},..." if len(spans) > most else text


def printable(text: str) -> str:
    """A text of the trace without what could move a terminal's cursor: escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
