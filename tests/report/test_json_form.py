"""The JSON is the summary, its verdict and its differences, and nothing else."""

from __future__ import annotations

import json

from report.summaries import exact, policy, with_posts, without_posts

from piscope.report.json_form import as_json, difference
from piscope.report.summary import Bounds


def test_the_promised_keys() -> None:
    values = json.loads(json.dumps(as_json(with_posts()), allow_nan=False))
    assert values["schema_version"] == 1
    before = values["policies"]["preempt-only"]
    assert before["unloaded_notifications"] == {"min": 1250, "max": 1252}
    assert before["residual_notifications"] == {"min": 7, "max": 346}
    assert before["wrong_vcpu"] == {"min": 0, "max": 230}


def test_every_field_of_the_summary_is_there_unchanged() -> None:
    for summary in (with_posts(), without_posts()):
        values = as_json(summary)
        assert set(values) - set(summary.as_dict()) == {"verdict", "differences"}
        assert values.items() >= summary.as_dict().items()


def test_difference_is_as_wide_as_both_ranges_allow() -> None:
    a = policy("a", wrong_vcpu=Bounds(3, 5), outcomes={"guest": exact(7)})
    b = policy("b", wrong_vcpu=Bounds(1, 4), outcomes={"wakeup": exact(2)})
    d = difference(a, b)
    assert d.wrong_vcpu == Bounds(1 - 5, 4 - 3)
    assert d.outcomes == {"guest": exact(-7), "wakeup": exact(2)}


def test_differences_are_from_the_first_policy() -> None:
    summary = with_posts()
    summary.policies["more-fastpath"] = policy("more-fastpath")
    values = as_json(summary)
    assert list(values["differences"]) == ["suppress-on-put", "more-fastpath"]
    scans = values["differences"]["suppress-on-put"]["costs"]["pir_scans"]
    assert scans == {"min": 1260, "max": 1260}
