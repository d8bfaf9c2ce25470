"""Tables of figures for README.md: piscope beside what the kernels counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from piscope.outcomes import Hit
from piscope.pipeline import Analysis, analyze
from piscope.report.summarize import summarize
from piscope.report.summary import Bounds, PolicySummary
from piscope.sources.detect import open_trace

__all__ = ("FIGURES", "counted_pin")

_SAMPLES = Path(__file__).resolve().parent.parent / "sample_traces"
_SESSIONS = (
    "vmx-6.12.117-ipiv-us.n_userspace_slow",
    "vmx-6.17.13-ipiv-us.n_userspace_slow",
    "vmx-6.12.117-ipiv-us.k_userspace_ipi",
    "vmx-6.17.13-ipiv-us.k_userspace_ipi",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow",
    "vmx-6.17.13-ipiv-us.o_wrong_vcpu_slow",
    "vmx-6.12.117-ipiv-us.l_wrong_vcpu",
    "vmx-6.17.13-ipiv-us.l_wrong_vcpu",
)


def _found(session: str, suffix: str) -> Path:
    for folder in (_SAMPLES, _SAMPLES / "proof"):
        path = folder / f"{session}{suffix}"
        if path.exists():
            return path
    raise FileNotFoundError(session)


def counted_pin(session: str) -> int:
    """Notification IRQs that the kernel itself counted during a session."""
    text = _found(session, ".meta.txt").read_text()
    before, after = (
        sum(map(int, line.split()[1:3]))
        for line in re.findall(r"^\s*PIN:.*$", text, re.MULTILINE)
    )
    return after - before


def _analyzed(session: str, ignore: tuple[str, ...] = ()) -> tuple[Analysis, str]:
    analysis = analyze(open_trace(str(_found(session, ".trace.dat"))), ignore=ignore)
    policy = analysis.captured.policy
    assert policy is not None
    return analysis, policy


def host_irqs(policy: PolicySummary) -> Bounds:
    """IRQs in the host: all that is not excluded, at least what is proven."""
    unloaded = policy.unloaded_notifications
    return Bounds(
        policy.outcomes[Hit.UNLOADED_HOST.label].min
        + policy.residual_notifications.min,
        unloaded.max + policy.residual_notifications.max,
    )


def counted() -> str:
    """PIN as the kernel counted it, beside what piscope says of the same capture."""
    rows = [
        "| capture | kernel's policy | PIN counted | host IRQs | to unloaded vCPUs "
        "| of them wrong vCPU | residual | without probes: to unloaded |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for session in _SESSIONS:
        analysis, name = _analyzed(session)
        policy = summarize(analysis).policies[name]
        blind, _ = _analyzed(session, ("pi:*",))
        stock = summarize(blind).policies[name]
        rows.append(
            f"| `{session}` | {name} | {counted_pin(session)} | {host_irqs(policy)} "
            f"| {policy.unloaded_notifications} | {policy.wrong_vcpu} "
            f"| {policy.residual_notifications} | {stock.unloaded_notifications} |"
        )
    return "\n".join(rows)


FIGURES: dict[str, Callable[[], str]] = {"counted": counted}
