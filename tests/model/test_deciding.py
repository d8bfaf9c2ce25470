"""Rules named for a letter are those that the reference follows; switches decide."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from piscope.model import deciding
from piscope.model.deciding import deciding_rules, deciding_switches, rule_named
from piscope.model.explain import RULES
from piscope.model.letters import MAYBE, Folded, Letter, apply, moves_ndst
from piscope.model.policy import DEFAULT_PLATFORM, POLICIES, Platform
from piscope.model.table import enumerate_table

PLATFORMS = (DEFAULT_PLATFORM, Platform(td_vcpu=True), Platform(ipiv=False))

OUTSIDE_A_LETTER = {
    "preempted",  # decides which letter it is, before any is applied
    "fresh-descriptor",  # PiDesc() is made when the model is imported
}


def _called(state: Folded, letter: Letter, policy: str, platform: Platform) -> set[str]:
    names: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            names.add(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        apply(state, letter, POLICIES[policy], platform)
    finally:
        sys.setprofile(None)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_rule_is_followed_by_a_letter_that_names_it(policy: str) -> None:
    named: set[tuple[str, Letter]] = set()
    followed: set[tuple[str, Letter]] = set()
    for platform in PLATFORMS:
        table = enumerate_table(POLICIES[policy], platform)
        for letter in Letter:
            if letter in MAYBE or letter is Letter.FORGET:
                continue
            for number in table.legal:
                state = table.states[number]
                if apply(state, letter, POLICIES[policy], platform) is None:
                    continue
                called = _called(state, letter, policy, platform)
                for name in deciding_rules(letter, [state], POLICIES[policy], platform):
                    named.add((name, letter))
                    function = rule_named(name).function.rpartition(".")[2]
                    if function in called:
                        followed.add((name, letter))
    missing = {
        name
        for name, _ in named - followed
        if name not in OUTSIDE_A_LETTER and name not in {n for n, _ in followed}
    }
    assert not missing


def test_every_rule_of_load_put_and_post_is_named_by_some_letter() -> None:
    of_letters = {
        rule.name
        for rule in RULES
        if rule.function.startswith(("descriptor.vmx", "posting.vmx", "posting.post"))
    } - {"ipiv-posts"}  # POST_HW stands for both, and VT-d's is the one that was read
    named: set[str] = set()
    for policy in POLICIES.values():
        table = enumerate_table(policy)
        states = [table.states[n] for n in table.legal]
        for letter in Letter:
            named.update(deciding_rules(letter, states, policy))
    assert of_letters <= named


PUT_STATE = Folded(
    loaded=True, in_guest=False, nv_f1=False, sn=False, on=False, pir=False
)


@pytest.mark.parametrize(
    ("policy", "letter", "switches"),
    [
        ("preempt-only", Letter.PUT_RUN_NOT, ("sn_on_every_put",)),
        ("suppress-on-put", Letter.PUT_RUN_NOT, ("sn_on_every_put",)),
        ("preempt-only", Letter.PUT_RUN_PREEMPTED, ("sn_when_preempted",)),
        (
            "suppress-on-put",
            Letter.PUT_RUN_PREEMPTED,
            ("sn_when_preempted", "sn_on_every_put"),
        ),
        ("suppress-on-put", Letter.PUT_BLOCK_IF1_NOT, ()),
        (
            "preempt-only",
            Letter.PUT_BLOCK_IF1_PREEMPTED,
            ("sn_when_preempted", "arm_when_preempted"),
        ),
        ("legacy-5.15", Letter.PUT_BLOCK_IF0_NOT, ("sn_on_every_put",)),
    ],
)
def test_switches_that_decide_a_put(
    policy: str, letter: Letter, switches: tuple[str, ...]
) -> None:
    found = deciding_switches(letter, [PUT_STATE], POLICIES[policy])
    if policy.startswith("legacy"):
        assert "pre_block_checks_if" in found
        assert set(switches) <= set(found)
    else:
        assert found == switches


def test_only_puts_hang_on_switches_here() -> None:
    assert (
        deciding_switches(Letter.LOAD_SAME, [PUT_STATE], POLICIES["legacy-5.10"]) == ()
    )


def test_a_load_moves_ndst_but_for_an_armed_vcpu_of_old_kernels() -> None:
    away = PUT_STATE._replace(loaded=False)
    armed = away._replace(nv_f1=True)
    for name, policy in POLICIES.items():
        assert moves_ndst(away, policy, DEFAULT_PLATFORM) or away.sn, name
        old = not policy.block_in_put
        assert moves_ndst(armed, policy, DEFAULT_PLATFORM) is not old, name


def test_unknown_rule() -> None:
    with pytest.raises(KeyError):
        rule_named("no-such-rule")
    assert set(deciding.__all__) == {
        "deciding_rules",
        "deciding_switches",
        "rule_named",
    }
