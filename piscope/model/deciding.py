"""Which rules and switches of a policy decide what a letter does to a descriptor.

Rules are named by letter; a switch decides if turning it over changes the answer of
the reference. To be read beside `letters` and `explain`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

from piscope.model.explain import RULES, Rule
from piscope.model.letters import Folded, Letter, Outcome, apply
from piscope.model.policy import (
    DEFAULT_PLATFORM,
    SWITCHES,
    Platform,
    Policy,
    vmx_needs_pi_wakeup,
)

__all__ = ("deciding_rules", "deciding_switches", "rule_named")

_PUTS = tuple(x for x in Letter if x.name.startswith("PUT_"))
_BLOCKING_PUTS = tuple(x for x in _PUTS if x.name.startswith("PUT_BLOCK_"))
_BY_KVM = (
    Letter.POST_SW_NEW,
    Letter.POST_SW_AGAIN,
    Letter.POST_SW_EITHER,
    Letter.MAYBE_POST_SW,
)


def rule_named(name: str) -> Rule:
    """The rule of that name. Raises KeyError for any other."""
    for rule in RULES:
        if rule.name == name:
            return rule
    raise KeyError(name)


def deciding_rules(
    letter: Letter,
    states: Iterable[Folded],
    policy: Policy,
    platform: Platform = DEFAULT_PLATFORM,
) -> tuple[str, ...]:
    """Names of the rules by which a letter acts on those states, in their order.

    Empty for letters that change nothing, or only say what was seen.
    """
    states = tuple(states)
    in_guest = any(state.in_guest for state in states)
    if letter in _PUTS:
        return _of_put(letter, policy, platform)
    if letter in (Letter.LOAD_SAME, Letter.LOAD_OTHER):
        scans = any(
            answer is not None and answer[1].pir_scans
            for answer in (apply(s, letter, policy, platform) for s in states)
        )
        return ("load-restores", "load-scans") if scans else ("load-restores",)
    if letter is Letter.POST_HW:
        return ("iommu-posts", "cpu-processes") if in_guest else ("iommu-posts",)
    if letter in _BY_KVM:
        return ("kvm-posts", "cpu-processes") if in_guest else ("kvm-posts",)
    if letter in (Letter.SYNC, Letter.MAYBE_SYNC):
        return ("sync-tests-on",)
    if letter is Letter.ENTER:
        entry = ("mode-before-sync", "sync-tests-on")
        return (*entry, "tdx-self-ipi") if platform.td_vcpu else entry
    if letter is Letter.EXIT:
        return ("suppress-at-exit",) if policy.suppress_at_exit else ()
    if letter is Letter.INIT:
        return ("fresh-descriptor",)
    if letter in (Letter.PRE_BLOCK_IF1, Letter.PRE_BLOCK_IF0, Letter.POST_BLOCK):
        return () if policy.block_in_put else ("pre-block-arms-wakeup",)
    return ()


def _of_put(letter: Letter, policy: Policy, platform: Platform) -> tuple[str, ...]:
    if not vmx_needs_pi_wakeup(platform):
        return ("put-is-gated",)
    names = ["put-suppresses"]
    if letter in _BLOCKING_PUTS:
        names.append(
            "block-arms-wakeup" if policy.block_in_put else "pre-block-arms-wakeup"
        )
    if letter.name.endswith("_PREEMPTED"):
        names.append("preempted")
    return tuple(names)


def deciding_switches(
    letter: Letter,
    states: Iterable[Folded],
    policy: Policy,
    platform: Platform = DEFAULT_PLATFORM,
) -> tuple[str, ...]:
    """Switches of the policy that decide what the letter leaves, or sends.

    One decides if the reference, asked with that switch alone turned over, answers
    differently in one of the states; where none does, two that only together do. What
    it costs is no part of the answer. block_in_put stays as it is: it says where the
    wakeup vector is armed, and no kernel has the newer switches without it.
    """
    states = tuple(states)
    if letter not in _PUTS:
        return ()

    def decide(switches: tuple[str, ...]) -> bool:
        turned: dict[str, Any] = {s: not getattr(policy, s) for s in switches}
        other = replace(policy, **turned)
        return any(
            _answer(state, letter, policy, platform)
            != _answer(state, letter, other, platform)
            for state in states
        )

    turnable = [switch for switch in SWITCHES if switch != "block_in_put"]
    alone = tuple(switch for switch in turnable if decide((switch,)))
    if alone:
        return alone
    having = [switch for switch in turnable if getattr(policy, switch)]
    return next((pair for pair in combinations(having, 2) if decide(pair)), ())


def _answer(
    state: Folded, letter: Letter, policy: Policy, platform: Platform
) -> tuple[Folded, Outcome] | None:
    answer = apply(state, letter, policy, platform)
    if answer is None:
        return None
    free = answer[1]._replace(pir_scans=0, locked_ops=0, list_locks=0)
    return answer[0], free
