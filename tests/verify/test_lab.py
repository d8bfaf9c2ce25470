"""Every probed lab capture is found to be what its README says it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from piscope.commands.verify_run import Request, verified

from .document import LAB, probed

PROBED = probed()

if not PROBED:
    pytest.skip("no lab captures beside this checkout", allow_module_level=True)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", PROBED, ids=_name)
def test_what_the_readme_says_is_found(path: Path) -> None:
    account = verified(str(path), Request())
    assert (account.status, account.disagreements) == (0, 0), account.verdict
    if "noipiv" in path.parent.name:
        assert account.platform == "no-pi-wakeup"
        return
    assert account.platform == "needs-pi-wakeup"
    mine, other = "preempt-only", "suppress-on-put"
    if "6.17" in path.parent.name:
        mine, other = other, mine
    assert account.policy == mine
    assert account.rivals[other] > 0
    assert all(c.within for c in account.counters)


@pytest.mark.parametrize(
    "path", [p for p in PROBED if "noipiv" not in str(p)], ids=_name
)
def test_the_other_policy_disagrees(path: Path) -> None:
    other = "preempt-only" if "6.17" in path.parent.name else "suppress-on-put"
    account = verified(str(path), Request(policy=other, limit=0))
    assert account.status == 1
    assert account.disagreements > 0


def test_a_text_of_the_same_capture_says_the_same() -> None:
    for name in ("vmx-6.12.117-ipiv/b_pid_x2apic", "vmx-6.17.13-ipiv/b_pid_x2apic"):
        binary = verified(str(LAB / f"{name}.trace.dat"), Request())
        text = verified(str(LAB / f"{name}.ftrace.txt.gz"), Request())
        assert (text.status, text.policy) == (0, binary.policy)
        assert text.transitions == binary.transitions
        assert text.rivals == binary.rivals
