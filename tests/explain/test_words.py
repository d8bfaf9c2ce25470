"""Every outcome, row and letter has words, and `--hit` knows every kind."""

from __future__ import annotations

import pytest

from piscope.commands.explain import KINDS
from piscope.explain.account import Descriptor, State
from piscope.explain.deciding import _RULES_OF_HIT
from piscope.explain.pick import HIT_GROUPS
from piscope.explain.words import (
    HIT_WORDS,
    LETTER_WORDS,
    ROW_WORDS,
    descriptor_fields,
    effect_words,
    hit_text,
    offset_text,
)
from piscope.model.explain import RULES
from piscope.model.letters import Letter, Outcome
from piscope.outcomes import Hit, Row


def test_all_of_them_have_words() -> None:
    assert set(HIT_WORDS) == set(Hit) == set(_RULES_OF_HIT)
    assert set(ROW_WORDS) == set(Row)
    assert set(LETTER_WORDS) == set(Letter)
    assert set(KINDS) == set(HIT_GROUPS)
    names = {rule.name for rule in RULES}
    assert {name for rules in _RULES_OF_HIT.values() for name in rules} <= names


def test_each_effect_has_words_but_for_costs() -> None:
    costs = {"pir_scans", "locked_ops", "list_locks"}
    for field in Outcome._fields:
        text = effect_words(Outcome()._replace(**{field: 1}), [3])
        assert bool(text) is (field not in costs), field
    assert effect_words(Outcome(notify_f2=1), [3]) == "sends 0xf2 to pCPU 3"
    assert effect_words(Outcome(notify_f2=1), []) == "sends 0xf2"


def _one(
    *states: tuple[bool, bool, bool],
    vectors: tuple[int, ...] = (),
    others: bool = False,
) -> Descriptor:
    return Descriptor(
        [State(on=on, sn=sn, nv=0xF2, pir=pir) for on, sn, pir in states],
        list(vectors),
        others,
        [0],
    )


@pytest.mark.parametrize(
    ("descriptor", "pir", "on"),
    [
        (_one((False, True, False)), "{}", "0"),
        (_one((True, False, True), vectors=(0x41,)), "{0x41}", "1"),
        (_one((True, False, True), vectors=(0x41,), others=True), "{0x41 ?}", "1"),
        (_one((True, False, True), others=True), "{?}", "1"),
        (
            _one((True, False, True), (False, False, False), vectors=(0x41,)),
            "{}|{0x41}",
            "0|1",
        ),
    ],
)
def test_a_set_of_states_is_shown_as_such(
    descriptor: Descriptor, pir: str, on: str
) -> None:
    fields = descriptor_fields(descriptor)
    assert fields["PIR"] == pir
    assert fields["ON"] == on
    assert fields["NV"] == "0xf2"


def test_outcomes_that_are_open_are_joined() -> None:
    text = hit_text([Hit.UNLOADED_HOST, Hit.WRONG_VCPU], 2, "vm0/vcpu1")
    assert text.count("pCPU 2") == 2
    assert ", or " in text
    assert text.endswith("vm0/vcpu1")


def test_many_outcomes_are_told_by_their_labels() -> None:
    text = hit_text([Hit.GUEST, Hit.HOST, Hit.UNKNOWN], 2, None)
    assert text == "any of guest, host, unknown"


def test_offsets_are_signed() -> None:
    assert offset_text(0) == "0"
    assert offset_text(-12_300) == "-12.3 us"
    assert offset_text(1_200_000) == "+1.2 ms"
