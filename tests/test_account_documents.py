"""docs/explain.md and docs/compare.md say what --json prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from account_documents import DOCUMENTS
from conftest import SAMPLES

from piscope.cli import run

OLD = str(SAMPLES / "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat")
NEW = str(SAMPLES / "vmx-6.17.13-ipiv-us.o_wrong_vcpu_slow.trace.dat")
RICH = str(SAMPLES / "vmx-6.17.13-ipiv-tools.p_rich.perf.data")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_what_the_docstrings_make(path: Path) -> None:
    assert path.read_text() == DOCUMENTS[path](), (
        "run `python tests/account_documents.py`"
    )


def _keys(value: object, *, but: tuple[str, ...]) -> set[str]:
    if isinstance(value, dict):
        found = set(value)
        for key, inner in value.items():
            if key not in but:
                found |= _keys(inner, but=but)
            elif isinstance(inner, dict):
                for part in inner.values():  # by policy
                    found |= _keys(part, but=but)
        return found
    if isinstance(value, list):
        return set().union(*(_keys(part, but=but) for part in value))
    return set()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("explain", ("--hit", "wrong-vcpu", OLD)),
        ("explain", ("--hit", "wakeup", RICH)),
        ("compare", (OLD, NEW) if Path(NEW).exists() else (OLD, RICH)),
    ],
)
def test_every_key_is_documented(
    name: str, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    run([name, "--json", *words])
    value = json.loads(capfd.readouterr().out)
    text = next(path for path in DOCUMENTS if path.stem == name).read_text()
    documented = set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))
    by_name = ("policies", "fields", "findings")
    assert _keys(value, but=by_name) <= documented
