"""docs/verify.md is what the docstrings and the captures make of it."""

from __future__ import annotations

from .document import DOCUMENT, document


def test_the_document_is_today_s() -> None:
    assert DOCUMENT.read_text() == document(), "run `python tests/verify/document.py`"
