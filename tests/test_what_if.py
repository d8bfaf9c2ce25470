"""What IPI virtualization was predicted to do, beside what it did.

The same work was recorded without it (each IPI a VM-exit and a post by KVM) and with
it (no event at all, but the kernel counted the notification IRQs, PIN).
"""

from __future__ import annotations

from contextlib import closing

import pytest
from test_lab_figures import kernel_s_count, path_of

from piscope.pipeline import analyze
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
from piscope.sources.detect import open_trace


def what_if(name: str) -> Summary:
    path = path_of(f"vmx-6.12.117-noipiv-us/{name}")
    with closing(open_trace(path)) as source:
        return summarize(analyze(source, posted="ipi"))


@pytest.mark.parametrize("name", ["k_userspace_ipi", "l_wrong_vcpu"])
def test_predicted_host_irqs_are_near_those_counted(name: str) -> None:
    summary = what_if(name)
    assert set(summary.question.reinterpreted) == {"ipi"}
    assert summary.question.kept == {}
    old, new = (summary.policies[p] for p in ("preempt-only", "suppress-on-put"))
    counted = kernel_s_count(f"vmx-6.12.117-ipiv-us/{name}", "PIN")
    assert 0.8 * counted <= old.host_irqs.min <= old.host_irqs.max <= 1.1 * counted
    # what SN=1 removes is gone, and what it can't remove is there in both; a sender
    # that exits for each IPI sends fewer of them, so that fewer hit a loaded vCPU
    assert new.known["unloaded_notifications"].max == 0
    assert new.host_irqs == old.known["residual_notifications"]
    counted = kernel_s_count(f"vmx-6.17.13-ipiv-us/{name}", "PIN")
    assert 0.4 * counted <= new.host_irqs.min <= new.host_irqs.max <= counted
