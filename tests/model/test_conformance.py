"""The reference against the kernel's own code, line by line; see data/conformance."""

from __future__ import annotations

from pathlib import Path

import pytest

from piscope.model.policy import POLICIES
from piscope.model.runner import run

DATA = Path(__file__).parents[1] / "data" / "conformance"


@pytest.mark.parametrize("policy", ["preempt-only", "suppress-on-put"])
def test_every_line_of_the_kernels_answers(policy):
    lines = (DATA / f"descriptor_{policy}.jsonl").read_text().splitlines()
    assert len(lines) == 3000
    answers = run(POLICIES[policy], lines)
    for place, (line, answer) in enumerate(zip(lines, answers, strict=True), 1):
        assert answer == line, f"line {place}"


def test_the_other_policy_does_not_fit():
    """The files tell the policies apart, so that the test above can fail."""
    lines = (DATA / "descriptor_preempt-only.jsonl").read_text().splitlines()
    answers = list(run(POLICIES["suppress-on-put"], lines))
    assert sum(a != b for a, b in zip(lines, answers, strict=True)) > 100
