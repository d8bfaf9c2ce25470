"""Every probed capture is found to be what its README says it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from piscope.commands.verify_run import Request, verified
from piscope.verify.account import Account

from .document import DOCUMENT, SAMPLES, accounts, document


def _other(policy: str | None) -> str:
    return "suppress-on-put" if policy == "preempt-only" else "preempt-only"


def test_all_probed_captures_of_the_readme_are_there() -> None:
    names = {Path(a.trace).name.split(".")[-3] for a in accounts()}
    assert {n[0] for n in names} == set("bcfhijklmnop")
    assert len(accounts()) == 26


@pytest.mark.parametrize("account", accounts(), ids=lambda a: Path(a.trace).name)
def test_what_the_readme_says_is_found(account: Account) -> None:
    assert (account.status, account.disagreements) == (0, 0), account.verdict
    assert all(c.within for c in account.counters)
    name = Path(account.trace).name
    if "noipiv" in name:
        assert account.platform == "no-pi-wakeup"
        return
    assert account.platform == "needs-pi-wakeup"
    policy = "suppress-on-put" if "6.17" in name else "preempt-only"
    assert account.policy == policy
    # as many as disagree once the other one is asked for
    other = verified(account.trace, Request(policy=_other(policy), limit=0))
    assert (other.status, other.platform) == (1, "needs-pi-wakeup")
    assert other.disagreements == account.rivals[other.policy or ""] > 0


def test_the_counts_of_the_readme_are_there() -> None:
    """README of the captures, "Seen in the data": how often each put was seen."""
    path = SAMPLES / "proof" / "vmx-6.12.117-ipiv.b_pid_x2apic.trace.dat"
    account = next(a for a in accounts() if a.trace == str(path))
    # b_pid_x2apic.pid-transitions.txt of 6.12.117-ipiv
    puts = {k.kind: k.transitions for k in account.kinds if k.kind.startswith("put")}
    assert puts == {
        "put, blocking": 494 + 1 + 1,
        "put, preempted": 158 + 1,
        "put, neither preempted nor blocking": 121 + 4 + 3,
        "put, preempted while blocking": 4 + 2,
    }
    # and the 121 plus 3 to userspace, plus 6, are what suppress-on-put does otherwise
    assert account.rivals == {"suppress-on-put": 121 + 3 + 6}


def test_a_text_of_the_same_capture_says_the_same(lab: Path) -> None:
    for name in ("vmx-6.12.117-ipiv/b_pid_x2apic", "vmx-6.17.13-ipiv/b_pid_x2apic"):
        binary = verified(str(lab / f"{name}.trace.dat"), Request())
        text = verified(str(lab / f"{name}.ftrace.txt.gz"), Request())
        assert (text.status, text.policy) == (0, binary.policy)
        assert text.transitions == binary.transitions
        assert text.rivals == binary.rivals


def test_the_document_is_today_s() -> None:
    assert DOCUMENT.read_text() == document(), "run `python tests/verify/document.py`"
