"""What a scenario's keys mean, for people: the docstrings of `scenario`, in order."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import MISSING, fields

from piscope.synth.scenario import (
    Capture,
    Device,
    Exit,
    Gaps,
    Halt,
    Hog,
    Host,
    Ipi,
    Lose,
    Replay,
    Vm,
)

__all__ = ("key_documentation",)


def key_documentation() -> str:
    """What the keys of a scenario mean, table by table, with their defaults."""
    tables = (
        ("[capture]", Capture),
        ("[[capture.lose]]", Lose),
        ("[host]", Host),
        ("[gaps]", Gaps),
        ("[[vm]]", Vm),
        ("[[vm.exit]]", Exit),
        ("[vm.halt]", Halt),
        ("[[vm.ipi]]", Ipi),
        ("[[vm.device]]", Device),
        ("[[hog]]", Hog),
        ("[[replay]]", Replay),
    )
    shown = []
    for header, table in tables:
        defaults = [
            f"{one.name} = {json.dumps(one.default)}"
            for one in fields(table)
            if one.default is not MISSING and one.default not in ((), "")
        ]
        text = inspect.cleandoc(table.__doc__ or "")
        lines = [header, *(f"  {line}".rstrip() for line in text.splitlines())]
        if defaults:
            lines += ["", "  defaults:"]
            lines += textwrap.wrap(
                ", ".join(defaults), 78, initial_indent="    ", subsequent_indent="    "
            )
        shown.append("\n".join(lines))
    return "\n\n".join(shown) + "\n"
