"""docs/json.md says what --json prints, and is made from the docstrings."""

from __future__ import annotations

import re

from report.json_document import DOCUMENT, document
from report.summaries import with_posts

from piscope.report.json_form import as_json


def test_document_is_what_the_docstrings_make() -> None:
    assert DOCUMENT.read_text() == document(), (
        "run `python tests/report/json_document.py`"
    )


def test_every_key_of_the_output_is_documented() -> None:
    documented = set(re.findall(r"^\| `([^`]+)`", DOCUMENT.read_text(), re.MULTILINE))
    names = {"preempt-only", "suppress-on-put", "vm0/vcpu0", "vm0/vcpu1", "48"}
    names |= {"unloaded_notifications", "residual_notifications", "wrong_vcpu"}

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set()

    assert keys(as_json(with_posts())) <= documented | names
