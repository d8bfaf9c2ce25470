"""Kernels of every generation, APIC mode and probe style are told for what they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.commands.verify_run import Request
from piscope.verify.account import Account
from piscope.verify.probe_names import Point, ProbeNames

from .simulated import Host, Probes

POLICY_OF = {
    "5.10": "legacy-5.10",
    "5.15": "legacy-5.15",
    "6.12": "preempt-only",
    "6.17": "suppress-on-put",
}


def _wrong(account: Account, policy: str, platform: str) -> int:
    return next(
        c.disagreements
        for c in account.candidates
        if (c.policy, c.platform) == (policy, platform)
    )


@pytest.mark.parametrize("x2apic", [False, True], ids=["xapic", "x2apic"])
@pytest.mark.parametrize("generation", POLICY_OF)
def test_a_kernel_is_found(verify: Any, generation: Any, x2apic: bool) -> None:
    host = Host(generation, x2apic=x2apic).run(200)
    account = verify(host.source())
    assert account.policy == POLICY_OF[generation], account.verdict
    assert (account.status, account.disagreements) == (0, 0), account.verdict
    assert account.platform == "needs-pi-wakeup"
    assert account.apic_form == ("x2APIC" if x2apic else "xAPIC")
    assert account.apic_ids == dict(enumerate(host.ndst_of))


@pytest.mark.parametrize("generation", ["6.12", "6.17"])
def test_the_other_policy_disagrees(verify: Any, generation: Any) -> None:
    mine = POLICY_OF[generation]
    other = ({"preempt-only", "suppress-on-put"} - {mine}).pop()
    source = Host(generation).run(100).source()
    assert verify(source, policy=mine).status == 0
    account = verify(source, policy=other)
    assert account.status == 1
    assert account.disagreements == sum(g.transitions for g in account.groups) > 0
    assert f"All agree with {mine}" in account.verdict


@pytest.mark.parametrize("generation", ["6.12", "6.17"])
def test_without_pi_wakeup_no_policy_can_be_told(verify: Any, generation: Any) -> None:
    source = Host(generation, needs_pi_wakeup=False).run(100).source()
    account = verify(source)
    assert account.status == 0
    assert account.platform == "no-pi-wakeup"
    assert "needs no PI wakeup" in account.verdict
    assert verify(source, policy="preempt-only").status == 3
    assert verify(source, policy="suppress-on-put").status == 3


STYLES = {
    "tracefs defaults": (
        Probes(
            load="kprobes:p_vmx_vcpu_pi_load_0",
            load_return="kprobes:r_vmx_vcpu_pi_load_0",
            put="kprobes:p_vmx_vcpu_pi_put_0",
            put_return="kprobes:r_vmx_vcpu_pi_put_0",
        ),
        {},
    ),
    "perf probe": (
        Probes(
            load="probe:vmx_vcpu_pi_load",
            load_return="probe:vmx_vcpu_pi_load__return",
            put="probe:vmx_vcpu_pi_put",
            put_return="probe:vmx_vcpu_pi_put__return",
        ),
        {},
    ),
    "own names": (
        Probes(
            load="my:in",
            load_return="my:in_end",
            put="my:out",
            put_return="my:out_end",
            names={"ctl": "word4", "preempted": "pre", "blocking": "wait"}
            | {f"pir{i}": f"w{i}" for i in range(4)},
        ),
        {
            "names": ProbeNames.of_options(
                {
                    Point.LOAD: "in",
                    Point.LOAD_DONE: "my:in_end",
                    Point.PUT: "out",
                    Point.PUT_DONE: "my:out_end",
                },
                ["ctl=word4,pir=w{0..3}", "preempted=pre", "blocking=wait"],
            )
        },
    ),
    "PIR as an array": (Probes(pir="text"), {}),
    "entries only": (Probes(load_return=None, put_return=None), {}),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("generation", ["6.12", "6.17"])
def test_probes_of_any_style(verify: Any, generation: Any, style: str) -> None:
    probes, request = STYLES[style]
    host = Host(generation, probes=probes).run(150)
    account = verify(host.source(), **request)
    assert account.policy == POLICY_OF[generation], account.verdict
    assert (account.status, account.disagreements) == (0, 0), account.verdict


def test_probes_alone_are_enough(verify: Any) -> None:
    for addresses in (False, True):
        host = Host("6.17", with_kvm_events=False, addresses=addresses).run(150)
        account = verify(host.source())
        assert (account.status, account.policy) == (0, "suppress-on-put")
        assert account.vcpus == 3


def test_returns_alone_tell_6_12_and_not_6_17(verify: Any) -> None:
    # what a put was for is read on its entry: SN=1 may have been a preemption's
    probes = Probes(load=None, put=None)
    account = verify(Host("6.12", probes=probes).run(150).source())
    assert (account.status, account.policy) == (0, "preempt-only")
    account = verify(Host("6.17", probes=probes).run(150).source())
    assert account.status == 3
    assert any("neither preempted nor blocking" in s for s in account.separating)


def test_a_trace_without_probes_can_t_tell(verify: Any) -> None:
    probes = Probes(None, None, None, None)
    account = verify(Host("6.17", probes=probes).run(10).source())
    assert account.status == 3
    assert "no probe" in account.verdict


def test_arguments_that_are_not_there_can_t_tell(verify: Any) -> None:
    names = ProbeNames.of_options({}, ["ctl=nothing"])
    account = verify(Host("6.17").run(10).source(), names=names)
    assert account.status == 3
    assert "no control word" in account.verdict


def test_only_puts_on_which_policies_differ_tell_them(verify: Any) -> None:
    host = Host("6.12", vcpus=1)
    (d,) = host.descs
    for _ in range(20):
        host.load(d, 0)
        host.put(d, preempted=True)
    account = verify(host.source())
    assert account.status == 3
    assert account.separating
    assert verify(host.source(), policy="preempt-only").status == 3
    # SN=0 after a preemption is what neither does
    assert _wrong(account, "no-suppression", "needs-pi-wakeup") > 0


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from(sorted(POLICY_OF)), st.booleans())
def test_no_kernel_disagrees_with_itself(
    seed: int, generation: Any, needs: bool
) -> None:
    from contextlib import contextmanager

    from piscope.commands import verify_run

    host = Host(generation, needs_pi_wakeup=needs, seed=seed).run(30)

    @contextmanager
    def opened(path: str) -> Any:
        yield host.source()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_run, "opened", opened)
        account = verify_run.verified("simulated", Request())
    platform = "needs-pi-wakeup" if needs else "no-pi-wakeup"
    assert _wrong(account, POLICY_OF[generation], platform) == 0
