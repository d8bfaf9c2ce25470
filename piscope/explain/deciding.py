"""What decided a notification: the step that wrote the bit, the switch, the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from piscope.explain.account import Deciding, RuleLine, Step
from piscope.explain.steps import Walked, is_load, is_put
from piscope.model.deciding import deciding_rules, deciding_switches, rule_named
from piscope.model.letters import Letter
from piscope.model.policy import SWITCHES
from piscope.outcomes import Hit
from piscope.pipeline import Analysis

__all__ = ("deciding_lines",)

_RULES_OF_HIT: dict[Hit, tuple[str, ...]] = {
    Hit.GUEST: ("cpu-processes",),
    Hit.HOST: (),
    Hit.UNLOADED_HOST: (),
    Hit.WRONG_VCPU: ("cpu-processes",),
    Hit.WAKEUP: ("wakeup-handler",),
    Hit.SILENT_ON: (),
    Hit.SILENT_SN: (),
    Hit.SILENT_PIR: (),
    Hit.SOFTWARE: (),
    Hit.LATCHED: ("irqs-off-latch",),
    Hit.UNKNOWN: (),
    Hit.GUEST_EXIT: ("inhibited-exits",),
}
"""Rules of the pCPU's side; those of the descriptor follow from the letters."""

_FAR = 4096


def deciding_lines(
    analysis: Analysis, index: int, steps: Sequence[Step]
) -> tuple[list[Deciding], list[RuleLine]]:
    """Why it went as it did, for each policy, and all rules that had a part in it."""
    lines: list[Deciding] = []
    names: dict[str, None] = {}
    for policy, result in analysis.results.items():
        f = result.findings
        at = int(f.stimulus[index])
        walked = Walked.of(analysis, policy, at)
        hits = [hit for hit in Hit if int(f.possible[index]) >> hit & 1]
        for line, rules in _reasons(walked, policy, at, hits, steps):
            lines.append(line)
            names.update(dict.fromkeys(rules))
        names.update(dict.fromkeys(_rules(walked, at)))
        for hit in hits:
            names.update(dict.fromkeys(_RULES_OF_HIT[hit]))
        if f.coalesced[index] != 0:
            names["one-irr-bit"] = None
    return lines, [_rule_line(name) for name in names]


def _rules(walked: Walked, at: int) -> tuple[str, ...]:
    table = walked.replayed.automaton.table
    return deciding_rules(
        walked.letter(at), walked.before(at), table.policy, table.platform
    )


def _rule_line(name: str) -> RuleLine:
    if name in SWITCHES:
        meaning, source = SWITCHES[name]
        return RuleLine(name, meaning, source, None, None)
    rule = rule_named(name)
    function = f"piscope.model.{rule.function}"
    return RuleLine(rule.name, rule.rule, rule.source, function, rule.caveat)


def _reasons(
    walked: Walked, policy: str, at: int, hits: list[Hit], steps: Sequence[Step]
) -> Iterator[tuple[Deciding, list[str]]]:
    """Sentences on the bits that the post met, with the rules that wrote them."""
    before = walked.before(at)
    sn, on = {s.sn for s in before}, {s.on for s in before}
    nv = {"0xf1" if s.nv_f1 else "0xf2" for s in before}
    met = f"SN={_either(sn)} ON={_either(on)} NV={'|'.join(sorted(nv))}"
    if walked.letter(at) is not Letter.POST_HW:
        pir = {s.pir for s in before}
        text = f"KVM's post meets ON={_either(on)}, PIR {_pir(pir)}; SN plays no part"
        yield Deciding(policy, text, _step_at(steps, at)), []
        return
    if Hit.SILENT_ON in hits and True in on:
        yield _on(walked, policy, at, met, steps)
        if len(hits) == 1:
            return
    writer = _last(walked, at, lambda x: is_put(x) or is_load(x))
    if writer is None:
        yield Deciding(policy, f"the post meets {met}, as the trace began", None), []
        return
    table = walked.replayed.automaton.table
    letter = walked.letter(writer)
    switches = deciding_switches(
        letter, walked.before(writer), table.policy, table.platform
    )
    text = f"the post meets {met}, as {_named(steps, writer, letter)} left it"
    if switches:
        values = " and ".join(
            f"{s} is {'on' if getattr(table.policy, s) else 'off'}" for s in switches
        )
        text += f": {values}"
    rules = [*_rules(walked, writer), *switches]
    yield Deciding(policy, text, _step_at(steps, writer)), rules


def _on(
    walked: Walked, policy: str, at: int, met: str, steps: Sequence[Step]
) -> tuple[Deciding, list[str]]:
    for i in range(at - 1, max(walked.first, at - _FAR) - 1, -1):
        was = {s.on for s in walked.before(i)}
        becomes = {s.on for s in walked.after(i)}
        if False in was and becomes == {True}:
            letter = walked.letter(i)
            text = f"the post meets {met}: {_named(steps, i, letter)} had set ON"
            return Deciding(policy, text, _step_at(steps, i)), list(_rules(walked, i))
    return Deciding(policy, f"the post meets {met}: ON was set before", None), []


def _last(walked: Walked, at: int, wanted: Callable[[int], bool]) -> int | None:
    for i in range(at - 1, max(walked.first, at - _FAR) - 1, -1):
        if wanted(int(walked.replayed.letters[i])):
            return i
    return None


def _step_at(steps: Sequence[Step], stimulus: int) -> int | None:
    return next((s.number for s in steps if s.stimulus == stimulus), None)


def _named(steps: Sequence[Step], stimulus: int, letter: Letter) -> str:
    step = next((s for s in steps if s.stimulus == stimulus), None)
    if step is None:
        return f"an earlier step ({letter.name})"
    return f"step {step.number} ({step.text})"


def _either(values: set[bool]) -> str:
    return "|".join(f"{value:d}" for value in sorted(values))


def _pir(values: set[bool]) -> str:
    if values == {True}:
        return "not empty"
    return "empty" if values == {False} else "maybe empty"
