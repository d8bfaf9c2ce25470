"""Policies and platforms: which release does what, and when put does anything."""

from __future__ import annotations

from dataclasses import fields

import pytest

from piscope.errors import UsageError
from piscope.model import descriptor, explain, lapic, policy, posting
from piscope.model.policy import (
    POLICIES,
    SWITCHES,
    Platform,
    gate_of_release,
    policy_named,
    policy_of_release,
    preempted_rule_of_release,
    vmx_needs_pi_wakeup,
)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.10.0-28-amd64", ("legacy-5.10", "5.10", "5.10")),
        ("5.15.85", ("legacy-5.15", "5.15", "5.14")),
        ("5.17.0", ("preempt-only", "5.15", "5.14")),
        ("6.1.0-32-amd64", ("preempt-only", "6.0", "5.14")),
        ("6.12.117+deb12-amd64", ("preempt-only", "6.0", "6.12")),
        ("6.16-rc7", ("preempt-only", "6.15", "6.12")),
        ("6.17.0-rc1", ("suppress-on-put", "6.17", "6.12")),
        ("7.0", ("suppress-on-put", "6.17", "6.12")),
    ],
)
def test_releases(release, expected):
    assert expected == (
        policy_of_release(release),
        gate_of_release(release),
        preempted_rule_of_release(release),
    )


@pytest.mark.parametrize("release", ["", "linux", "6", "6.", "99999999999.1", "6.1234"])
def test_what_is_no_release(release):
    with pytest.raises(UsageError, match="MAJOR"):
        policy_of_release(release)


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(UsageError, match="preempt-only, suppress-on-put"):
        policy_named("newest")
    assert policy_named("preempt-only") is POLICIES["preempt-only"]


@pytest.mark.parametrize(
    ("platform", "needs"),
    [
        (Platform(), True),
        (Platform(assigned_device=False), False),
        (Platform(vtd_posting=False), False),
        (Platform(assigned_device=False, ipiv=True), True),
        (Platform(assigned_device=False, ipiv=True, gate="5.15"), False),
        (Platform(assigned_device=False, ipiv=True, td_vcpu=True), False),
        (
            Platform(assigned_device=False, ipiv=True, td_vcpu=True, gate="6.0"),
            True,
        ),
        (Platform(apicv=False, ipiv=True), False),
        (Platform(irqchip_in_kernel=False, ipiv=True), False),
        (Platform(apicv_active=False, gate="5.10"), False),
        (Platform(apicv_active=False, gate="5.15"), True),
    ],
)
def test_who_needs_pi_wakeup(platform, needs):
    assert vmx_needs_pi_wakeup(platform) == needs


def test_every_switch_is_documented_and_used():
    switches = {f.name for f in fields(policy.Policy)} - {"name", "title", "releases"}
    assert switches == set(SWITCHES)
    for switch in switches:
        assert len({getattr(p, switch) for p in POLICIES.values()}) == 2, switch


def test_every_rule_names_something_of_the_model():
    modules = {
        "descriptor": descriptor,
        "lapic": lapic,
        "policy": policy,
        "posting": posting,
    }
    names = [rule.name for rule in explain.RULES]
    assert len(set(names) | set(SWITCHES)) == len(names) + len(SWITCHES)
    for rule in explain.RULES:
        module, _, name = rule.function.partition(".")
        assert name in modules[module].__all__, rule.name
