"""Operations as JSON lines: what is refused, how, and never with a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.errors import PiscopeError
from piscope.model.policy import POLICIES
from piscope.model.runner import MAX_LINE_CHARS, OPERATIONS, OperationError, run


def answers(*operations, policy="suppress-on-put"):
    lines = [op if isinstance(op, str) else json.dumps(op) for op in operations]
    return [json.loads(line) for line in run(POLICIES[policy], lines)]


LOAD = {"op": "load", "vcpu": 0, "cpu": 1}
PUT = {
    "op": "put",
    "vcpu": 0,
    "preempted": False,
    "blocking": True,
    "irqs_blocked": False,
}
POST = {"op": "post", "agent": "vtd", "vcpu": 0, "vector": 65}


def test_a_blocked_vcpu_is_woken():
    *_, put, post, irq = answers(LOAD, PUT, POST, {"op": "wakeup_irq", "cpu": 1})
    assert (put["wakeup_list"], put["pid"]["nv"], put["list_locks"]) == (1, 0xF1, 1)
    assert post["effects"] == [{"effect": "notify", "vector": 0xF1, "cpu": 1}]
    assert irq == {
        "op": "wakeup_irq",
        "cpu": 1,
        "effects": [{"effect": "wake", "vcpu": 0}],
    }


def test_what_was_printed_can_be_run_again_under_another_policy():
    first = list(run(POLICIES["preempt-only"], [json.dumps(x) for x in (LOAD, POST)]))
    assert list(run(POLICIES["preempt-only"], first)) == first
    assert len(list(run(POLICIES["no-suppression"], first))) == 2


def test_urgent_and_ipiv():
    fresh = {"op": "post", "vcpu": 0, "vector": 65}
    urgent, ipiv = answers(
        fresh | {"agent": "vtd", "urgent": True},
        fresh | {"agent": "ipiv", "vcpu": 1},
    )
    assert urgent["effects"] and urgent["pid"]["on"] == 1
    assert not ipiv["effects"] and ipiv["pid"]["pir"] == [65]


def test_legacy_policies_block_by_themselves():
    operations = [
        LOAD,
        {"op": "pre_block", "vcpu": 0, "irqs_blocked": False},
        {"op": "post_block", "vcpu": 0},
    ]
    _, before, after = answers(*operations, policy="legacy-5.15")
    assert (before["pid"]["nv"], before["wakeup_list"]) == (0xF1, 1)
    assert (after["pid"]["nv"], after["wakeup_list"]) == (0xF2, None)
    with pytest.raises(OperationError, match="arms the wakeup vector in put"):
        answers(*operations)


IMPOSSIBLE = [
    ([LOAD, "", LOAD], "line 3: the vCPU is loaded already"),
    ([PUT], "line 1: not loaded"),
    ([{"op": "enter", "vcpu": 0}], "line 1: not loaded"),
    ([LOAD, {"op": "exit", "vcpu": 0}], "line 2: not in guest mode"),
    ([LOAD, {"op": "deliver", "vcpu": 0}], "line 2: not in guest mode"),
    ([LOAD, {"op": "enter", "vcpu": 0}, PUT], "line 3: still in guest mode"),
    ([{"op": "fly"}], "line 1: op 'fly': expected one of load, put, post, enter"),
    ([{}], "op None: expected one of"),
    ([{"op": ["load"]}], "op ['load']: expected one of"),
    ([{"op": "x" * 9999}], "...: expected one of"),
    ([LOAD | {"cpu": -1}], "cpu -1: expected an integer from 0 to 2147483647"),
    ([LOAD | {"cpu": 1.0}], "cpu 1.0: expected an integer"),
    ([LOAD | {"vcpu": True}], "vcpu True: expected an integer"),
    ([POST | {"vector": 256}], "vector 256: expected an integer from 0 to 255"),
    ([POST | {"agent": "me"}], "agent 'me': expected vtd, ipiv or kvm"),
    ([POST | {"agent": "kvm", "urgent": True}], "urgent: a bit of VT-d's IRTE"),
    ([PUT | {"blocking": 1}], "blocking 1: expected true or false"),
    (["[]"], "JSON list: expected an object"),
    (["{"], "not JSON (Expecting property name"),
    (["[" * 100_000], "not JSON (out of range)"),
    (['{"op":' + "9" * 9999 + "}"], "not JSON (out of range)"),
    ([" " * (MAX_LINE_CHARS + 1)], f"longer than {MAX_LINE_CHARS} characters"),
]


@pytest.mark.parametrize(("operations", "complaint"), IMPOSSIBLE)
def test_what_is_refused_says_where_and_what_was_expected(operations, complaint):
    with pytest.raises(PiscopeError) as caught:
        answers(*operations)
    assert complaint in str(caught.value)


def test_answers_before_a_refused_line_are_given():
    lines = run(POLICIES["preempt-only"], [json.dumps(LOAD), "?"], path="ops.jsonl")
    assert json.loads(next(lines))["op"] == "load"
    with pytest.raises(PiscopeError, match=r"ops\.jsonl, line 2: not JSON"):
        next(lines)


values = st.none() | st.booleans() | st.integers(-2, 300) | st.text(max_size=3)
objects = st.fixed_dictionaries(
    {"op": st.sampled_from([*OPERATIONS, "wakeup_irq"]) | values},
    optional={
        key: st.integers(0, 3) | st.booleans() | st.sampled_from(["vtd", "kvm"])
        for key in ("vcpu", "cpu", "vector", "agent", "preempted", "blocking")
    }
    | {"irqs_blocked": st.booleans(), "urgent": values},
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(objects.map(json.dumps) | st.text(max_size=9), max_size=8),
    st.sampled_from(sorted(POLICIES)),
)
def test_any_lines_give_answers_or_an_error_with_a_line(lines, policy):
    try:
        for answer in run(POLICIES[policy], lines):
            json.loads(answer)
    except PiscopeError as error:
        assert error.line is not None and error.line <= len(lines)
