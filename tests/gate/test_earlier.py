"""Reports made earlier, in place of their traces."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report.summaries import with_posts, without_posts

from piscope.corpus import find_traces
from piscope.errors import PiscopeError
from piscope.gate.earlier import read_summary
from piscope.gate.measured import Options
from piscope.gate.metrics import measure_summary
from piscope.gate.run import run_corpus
from piscope.report.json_form import as_json

OPTIONS = Options(("preempt-only", "suppress-on-put"))


def _written(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize("make", [with_posts, without_posts])
def test_a_report_has_the_numbers_of_its_summary(make: Any, tmp_path: Path) -> None:
    summary = make()
    path = _written(tmp_path / "summary.json", as_json(summary))
    assert read_summary(path, OPTIONS) == summary
    assert measure_summary(read_summary(path, OPTIONS)) == measure_summary(summary)


def test_the_command_gives_the_trace_and_its_report_the_same_numbers(
    samples: Path, tmp_path: Path
) -> None:
    from piscope.cli import run

    trace = samples / "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat"
    assert run(["report", str(trace), "-o", str(tmp_path / "night")]) == 0
    corpus = find_traces([str(tmp_path)])
    assert [t.name for t in corpus.traces] == ["night"]
    assert find_traces([str(tmp_path / "night")]).traces == corpus.traces
    (there,) = run_corpus(corpus, OPTIONS, workers=1).values()
    (here,) = run_corpus(find_traces([str(trace)]), OPTIONS, workers=1).values()
    assert getattr(there, "values", there) == getattr(here, "values", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version 1"),
        ({"narrowed": {"vm": "0"}}, "made with --vm"),
        ({"question": {"posted": "none"}}, "--posted none"),
        ({"vcpus": None}, "summary.vcpus: expected a list"),
        ({"policies": {"x": {}}}, "summary.policies.x.name: expected this key"),
    ],
)
def test_what_is_no_such_report_says_why(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    document = as_json(with_posts())
    for key, value in change.items():
        document[key] = document[key] | value if key == "question" else value
    with pytest.raises(PiscopeError, match=said):
        read_summary(_written(tmp_path / "summary.json", document), OPTIONS)


_odd = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_report_is_numbers_or_an_error_of_ours(
    tmp_path: Path, data: st.DataObject
) -> None:
    document = copy.deepcopy(as_json(with_posts()))
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(place[key], (dict, list)) and place[key]):
            break
        place = place[key]
    place[key] = data.draw(_odd)
    path = _written(tmp_path / "summary.json", document)
    try:
        measure_summary(read_summary(path, OPTIONS))
    except PiscopeError as error:
        assert "expected" in str(error) or "made with" in str(error)
