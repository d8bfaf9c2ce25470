"""docs/explain.md and docs/compare.md, made from the docstrings of what they document.

`python tests/account_documents.py` writes them; tests/test_account_documents.py fails
where they are not what would be written.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from report.json_document import _fields, _intro, _parts, _table, _type  # noqa: E402

from piscope.compare import account as compared  # noqa: E402
from piscope.compare.build import BESIDES  # noqa: E402
from piscope.explain import account as explained  # noqa: E402
from piscope.explain.words import LETTER_WORDS, ROW_WORDS  # noqa: E402
from piscope.outcomes import Hit, Row  # noqa: E402

_RULES = """\
`schema_version` is {version}. Within a version keys may be added; one that is renamed,
removed, or changes its meaning raises it. Unknown is `null`, never 0 or -1. Instants
and lengths of time are in nanoseconds of the trace's clock.
"""

_EXPLAIN = """\
# The JSON of `piscope explain --json`

Made from the docstrings of `piscope/explain/account.py` by
`python tests/account_documents.py`; a test compares. The output is one object, as
[Account](#account) says; the report for people is made from the same object.

"""
_COMPARE = """\
# The JSON of `piscope compare --json`

Made from the docstrings of `piscope/compare/account.py` by
`python tests/account_documents.py`; a test compares. The output is one object, as
[Account](#account) says; the report for people is made from the same object, and shows
the figures that matter most.

"""


def explain_document() -> str:
    """The text of docs/explain.md."""
    parts = [_EXPLAIN + _RULES.format(version=explained.SCHEMA_VERSION)]
    parts += _tables(explained.Account)
    parts.append("## Words\n")
    parts.append(f"Outcomes: {', '.join(f'`{hit.label}`' for hit in Hit)}.\n")
    parts.append("Rows of the state table:\n")
    rows = [(f"`{row.label}`", ROW_WORDS[row]) for row in Row]
    parts.append(_table(("row", ""), rows))
    parts.append("Letters, what a step is:\n")
    letters = [(f"`{x.name}`", words) for x, words in LETTER_WORDS.items()]
    parts.append(_table(("letter", ""), letters))
    return "\n".join(parts)


def compare_document() -> str:
    """The text of docs/compare.md."""
    parts = [_COMPARE + _RULES.format(version=compared.SCHEMA_VERSION)]
    parts += _tables(compared.Account)
    parts.append("## Words\n")
    parts.append("What rates are divided by (`per`):\n")
    pers = [(f"`{per}`", words) for per, words in compared.PERS.items()]
    parts.append(_table(("word", ""), pers))
    parts.append("Verdicts of a rate:\n")
    parts.append(_table(("word", ""), list(_verdicts())))
    parts.append("Metrics that docs/gate.md does not have:\n")
    more = [(f"`{name}`", meaning) for name, meaning in BESIDES.items()]
    parts.append(_table(("metric", ""), more))
    return "\n".join(parts)


def _verdicts() -> Iterator[tuple[str, str]]:
    for name, meaning in compared.VERDICTS.items():
        yield f"`{name}`", meaning


def _tables(root: type) -> Iterator[str]:
    """The root and what it is made of, each where it is first needed."""
    waiting, done = [root], []
    while waiting:
        cls = waiting.pop(0)
        if cls in done:
            continue
        done.append(cls)
        fields = list(_fields(cls))
        rows = [(key, _type_of(hint), told) for key, hint, told in fields]
        yield f"## {cls.__name__}\n\n{_intro(cls)}\n"
        yield _table(("key", "type", ""), rows)
        waiting[:0] = [part for _, hint, _ in fields for part in _parts(hint)]


def _type_of(hint: object) -> str:
    if hint == dict[str, typing.Any]:
        return "object"
    return _type(hint)


DOCUMENTS = {
    ROOT / "docs" / "explain.md": explain_document,
    ROOT / "docs" / "compare.md": compare_document,
}

if __name__ == "__main__":
    for path, document in DOCUMENTS.items():
        path.write_text(document())
