"""A baseline's text: what it means, and where it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.errors import UsageError
from piscope.gate.baseline import Baseline, parse_baseline
from piscope.gate.metrics import METRICS, Range, Value
from piscope.gate.update import DEFAULT_TEXT, updated


def _parsed(text: str) -> Baseline:
    return parse_baseline(f"format = 1\n{text}", "b.toml")


def test_a_limit_is_on_a_metric_a_key_a_policy_and_a_measure() -> None:
    baseline = _parsed(
        "[limits.each]\n"
        "spurious_host_irqs.suppress-on-put.max = 0\n"
        "residual_by_exit_reason.12.captured.per_entry = { increase_percent = 5,"
        " noise_below = 3, cannot_tell = 'pass' }\n"
        "losses.max = 7\n"
    )
    irqs, residual, losses = baseline.each
    assert irqs.value == Value("spurious_host_irqs", "", "suppress-on-put")
    assert (irqs.max, irqs.line, irqs.cannot_tell_passes) == (0, 3, False)
    assert residual.value == Value("residual_by_exit_reason", "12", "captured")
    assert residual.measure == "per_entry"
    assert (residual.increase_percent, residual.noise_below) == (5, 3)
    assert residual.cannot_tell_passes
    assert losses.name == "losses"


def test_a_count_and_its_rate_are_two_limits() -> None:
    baseline = _parsed(
        "[limits.corpus]\nlosses = { max = 3, per_second = { max = 1 } }"
    )
    assert [limit.name for limit in baseline.corpus] == ["losses", "losses.per_second"]


def test_the_more_special_limit_counts() -> None:
    baseline = _parsed(
        "[limits.each]\nlosses.max = 1\n"
        "[limits.groups.us]\ntraces = ['*us*']\neach.losses.max = 2\n"
        "[limits.traces.'a.us']\nlosses.max = 3\n"
    )
    groups = list(baseline.groups)
    assert [limit.max for limit in baseline.of_trace("a.us", groups)] == [3]
    assert [limit.max for limit in baseline.of_trace("b.us", groups)] == [2]
    assert [limit.max for limit in baseline.of_trace("c", [])] == [1]


def test_a_policy_that_a_limit_names_is_replayed() -> None:
    text = "[limits.each]\nwrong_vcpu.legacy-5#10.max = 0".replace("5#10", '"5.10"')
    with pytest.raises(UsageError):
        _parsed(text)
    baseline = _parsed('[limits.each]\nwrong_vcpu."legacy-5.10".max = 0')
    assert baseline.options.policies == (
        "preempt-only",
        "suppress-on-put",
        "legacy-5.10",
    )


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[limits.each]\nlosses.max = -1", 3, "limits.each.losses.max: expected at"),
        ("[limits.each]\nlosses.max = 'x'", 3, "losses.max: expected a number"),
        ("[limits.each]\nlosses.max = true", 3, "losses.max: expected a number"),
        ("[limits.each]\nlosses.max = nan", 3, "losses.max: expected a finite"),
        ("[limits.each]\nlosses = 3", 3, "losses: expected a setting below it"),
        ("[limits.each]\nlosses.mx = 3", 3, "losses.mx: no such setting (did you"),
        ("[limits.each]\nlosses = {}", 3, "losses: limits nothing"),
        ("[limits.each]\nlosses.noise_below = 3", 3, "losses: limits nothing"),
        ("[limits.each]\nlosss.max = 3", 3, "losss: no such metric (did you mean"),
        ("[limits.each]\nwrong_vcpu.max = 3", 3, "wrong_vcpu.max: expected a policy"),
        ("[limits.each]\n\n[limits.each.wrong_vcpu.captured]\nmax = 'a'", 5, "max"),
        ("[limits.each]\nentries.per_entry.max = 3", 3, "entries has no rate"),
        ("[limits.each]\nlosses.cannot_tell = 'skip'\n", 3, 'expected "pass" or'),
        ("[limits.groups.us]\neach.losses.max = 3", 2, "groups.us: expected traces"),
        ("[limits.groups]\nus = 3", 3, "limits.groups.us: expected a table"),
        ("[limit]", 2, "limit: no such key"),
        ("[options]\npolicies = ['none']", 3, "no policy 'none'"),
        ("[options]\nposted = 'all'", 3, "options.posted: expected"),
        ("[options]\nexclude = 3", 3, "options.exclude: expected a list of texts"),
        ("[measured.traces.a]\nduration_ns = -1", 3, "duration_ns: expected a whole"),
        (
            "[measured.traces.a]\nduration_ns=1\nentries=1\nvalues.losses = [3, 1]",
            5,
            "values.losses: expected a number or",
        ),
        ("[limits.each\n", 2, "no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_key_and_line(
    text: str, line: int, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        _parsed(text)
    assert said in str(error.value)
    assert str(error.value).startswith(f"b.toml, line {line}: ")


@pytest.mark.parametrize("text", ["", "format = 2\n", "format = '1'\n"])
def test_another_format_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="format"):
        parse_baseline(text, "b.toml")


_words = st.sampled_from(
    [
        *("format = 1", "[limits.each]", "[limits]", "losses", ".max", " = ", "0"),
        *("[measured.traces.a]", "values", "sha256", "[options]", "policies", "nan"),
        *("{", "}", "[", "]", "\n", "\n", "'", '"', ",", "captured", "wrong_vcpu"),
    ]
)


@given(st.lists(_words | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_a_baseline_or_an_error_of_ours(text: str) -> None:
    try:
        parse_baseline(text, "b.toml")
    except UsageError as error:
        assert error.path == "b.toml"


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.integers(0, 2**60).flatmap(
            lambda n: st.tuples(
                st.just(n), st.integers(n, 2**61) | st.just(float("inf"))
            )
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read_again(
    traces: dict[str, tuple[float, float]],
) -> None:
    from gate.jobs import measured

    baseline = parse_baseline(DEFAULT_TEXT, "b.toml")
    text = updated(
        baseline, {name: measured("f", losses=ends) for name, ends in traces.items()}
    )
    again = parse_baseline(text, "b.toml")
    assert {n: w.values["losses"] for n, w in again.measured.items()} == {
        name: Range(*ends) for name, ends in traces.items()
    }
    assert again.each == baseline.each
    assert updated(again, {}) == updated(baseline, {})  # the limits stay as they are


def test_an_update_keeps_comments_and_replaces_numbers() -> None:
    from gate.jobs import measured

    above = "format = 1\n# why\n[limits.each]\nlosses.max = 3 # so\n"
    first = updated(parse_baseline(above, "b"), {"a": measured("a", losses=(1, 1))})
    second = updated(parse_baseline(first, "b"), {"b": measured("b", losses=(2, 4))})
    assert first.startswith(above)
    assert second.startswith(above)
    assert "values.losses = [2, 4]" in second
    assert "traces.a]" not in second


def test_numbers_without_the_mark_are_not_overwritten() -> None:
    baseline = _parsed("[measured]\npiscope = '0'\n")
    with pytest.raises(UsageError, match="measured"):
        updated(baseline, {})


def test_the_default_limits_exist() -> None:
    limits = parse_baseline(DEFAULT_TEXT, "b").each
    assert {limit.value.metric for limit in limits} <= set(METRICS)
    assert all(limit.increase_percent is not None for limit in limits)
