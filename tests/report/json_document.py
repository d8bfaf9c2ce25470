"""docs/json.md, made from the docstrings of what `piscope analyze --json` prints.

`python tests/report/json_document.py` writes it; tests/report/test_json_document.py
fails where it is not what would be written.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from piscope.model.policy import POLICIES  # noqa: E402
from piscope.report import json_form, summary  # noqa: E402
from piscope.report.render_words import (  # noqa: E402
    COST_WORDS,
    KIND_HEADINGS,
    OUTCOME_WORDS,
    REASON_WORDS,
    STATE_WORDS,
)
from piscope.sources.raw import LossCause  # noqa: E402

DOCUMENT = ROOT / "docs" / "json.md"

MORE_KEYS = (
    ("verdict", "list of string", "the report's first sentences"),
    (
        "differences",
        "object of [Difference](#difference)",
        "of each further policy, by name, from the first",
    ),
)
"""Keys of the whole that are not fields of Summary."""

_KINDS = {
    "guest": "in guest mode",
    "host": "in KVM, IRQs on",
    "host-irqs-off": "in KVM, IRQs off, next to guest mode",
    "poll": "halt-polling",
    "userspace": "in userspace",
    "preempted": "runnable, but not running",
    "blocked": "blocked in KVM until something wakes it",
    "asleep": "a sleep in KVM that is no halt",
    "unknown": "the trace does not tell",
}

_INTRODUCTION = f"""\
# The JSON of `piscope analyze --json`

Made from the docstrings of `piscope/report/summary.py` by
`python tests/report/json_document.py`; a test compares.

For one TRACE the output is one object, as [Summary](#summary) says; for several it is
a list of such objects, without the traces that could not be analyzed (those are on
standard error, and the exit status is 2). The report for people is made from the same
object.

`schema_version` is {summary.SCHEMA_VERSION}. Within a version keys may be added; one
that is renamed, removed, or changes its meaning raises it. Unknown is `null`, never 0
or -1. Instants and lengths of time are integers, in nanoseconds of the trace's clock.
Counts are ranges, `{{"min": 5, "max": 9}}`: what the trace proves, and what it can't
exclude; where both are equal the count is certain.

The numbers that most scripts want:

    .policies.<name>.unloaded_notifications    sent while the vCPU was not loaded
    .policies.<name>.residual_notifications    sent while it was loaded, in the host
    .policies.<name>.wrong_vcpu                taken in another vCPU's guest mode

where `<name>` is one of {", ".join(f"`{name}`" for name in POLICIES)}.
"""


def document() -> str:
    """The whole text."""
    parts = [_INTRODUCTION]
    for cls in _classes():
        parts.append(f"## {cls.__name__}\n\n{_intro(cls)}\n")
        rows = [(key, _type(hint), told) for key, hint, told in _fields(cls)]
        if cls is summary.Summary:
            rows += MORE_KEYS
        parts.append(_table(("key", "type", ""), rows))
    parts.append("## Words\n")
    causes = dict.fromkeys(typing.get_args(LossCause), "")
    for title, words in (
        ("Kinds of interval (`time_ns`, `residual_by_state`)", _KINDS),
        (
            "Besides those, in `residual_by_state`",
            {"before-put": STATE_WORDS["before-put"]},
        ),
        ("Put reasons", REASON_WORDS),
        ("Outcomes of posts (`outcomes`)", OUTCOME_WORDS),
        ("Costs", COST_WORDS),
        ("Causes of loss", causes),
    ):
        parts.append(f"{title}:\n")
        if any(words.values()):
            rows = [(f"`{k}`", v.replace("\n", " ")) for k, v in words.items()]
            parts.append(_table(("word", ""), rows))
        else:
            parts.append(", ".join(f"`{k}`" for k in words) + ".\n")
    assert set(_KINDS) == set(KIND_HEADINGS)
    return "\n".join(parts)


def _classes() -> Iterator[type]:
    """Summary and what it is made of, each where it is first needed."""
    waiting: list[type] = [summary.Summary, json_form.Difference]
    done: list[type] = []
    while waiting:
        cls = waiting.pop(0)
        if cls in done:
            continue
        done.append(cls)
        yield cls
        parts = [part for _, hint, _ in _fields(cls) for part in _parts(hint)]
        waiting[:0] = [part for part in parts if part not in done]


def _parts(hint: object) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _parts(argument)


def _fields(cls: type) -> Iterator[tuple[str, object, str]]:
    """Name, type and meaning of each field, as the docstring gives it.

    Fails for a field that it does not describe, and for a word that is no field.
    """
    told = _told(cls)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    missing, unknown = set(names) - set(told), set(told) - set(names)
    assert not missing, f"{cls.__name__}: no word on {sorted(missing)}"
    assert not unknown, f"{cls.__name__}: has no {sorted(unknown)}"
    for name in names:
        yield name, hints[name], told[name]


_FIRST_LINE = re.compile(r"([a-z_]+)(?: +(.*))?")


def _told(cls: type) -> dict[str, str]:
    *_, table = _paragraphs(cls)
    told: dict[str, str] = {}
    name = ""
    for line in table.splitlines():
        match = _FIRST_LINE.fullmatch(line)
        if match:  # the others are indented
            name = match[1]
            told[name] = match[2] or ""
        else:
            told[name] = f"{told[name]} {line.strip()}".strip()
    return told


def _intro(cls: type) -> str:
    *paragraphs, _ = _paragraphs(cls)
    return "\n\n".join(paragraphs)


def _paragraphs(cls: type) -> list[str]:
    return inspect.cleandoc(cls.__doc__ or "").split("\n\n")


def _type(hint: object) -> str:
    if isinstance(hint, types.UnionType):
        some = [_type(h) for h in typing.get_args(hint) if h is not type(None)]
        return f"{' or '.join(some)} or null"
    origin = typing.get_origin(hint)
    if origin is list:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if origin is dict:
        return f"object of {_type(typing.get_args(hint)[1])}"
    assert isinstance(hint, type)
    if dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {int: "integer", str: "string", float: "number", bool: "boolean"}[hint]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if header[0] == "key":
        rows = [(f"`{key}`", *rest) for key, *rest in rows]
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
