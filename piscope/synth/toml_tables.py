"""TOML tables read into dataclasses, with key and line in what is refused.

A field's metadata says what it may be: `least`, `most` for numbers, `words` for texts.
A field whose type is a dataclass is a table; a tuple of dataclasses is an array of
tables; a tuple of int or str is a list.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, NoReturn, TypeVar

from piscope.errors import UsageError
from piscope.toml_text import parse_toml

__all__ = ("read_toml", "setting")

T = TypeVar("T")
_Key = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*([\w-]+)\s*=")


def setting(
    default: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    """A field of a scenario's dataclass, with what it may be."""
    metadata = {"least": least, "most": most, "words": words}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def read_toml(text: str, cls: type[T], path: str) -> T:
    """The text as a `cls`.

    Raises UsageError, with path, key and line, for text that is no TOML, for keys that
    `cls` has no field for, and for values that a field may not be.
    """
    parsed = parse_toml(text, path)
    return _Reader(path, _lines(text)).table(parsed, cls, ())


class _Reader:
    def __init__(self, path: str, lines: Mapping[_Key, int]) -> None:
        self.path, self.lines = path, lines

    def refuse(self, key: _Key, why: str) -> NoReturn:
        # an inline table has no line of its own
        at = next(
            (
                self.lines[key[:n]]
                for n in range(len(key), 0, -1)
                if key[:n] in self.lines
            ),
            None,
        )
        shown = ""
        for part in key:
            shown += f"[{part}]" if isinstance(part, int) else f".{part}"
        raise UsageError(f"{shown[1:]}: {why}", path=self.path, line=at)

    def table(self, table: Any, cls: type[T], key: _Key) -> T:
        if not isinstance(table, dict):
            self.refuse(key, "expected a table")
        kinds = typing.get_type_hints(cls)
        known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
        for name in table:
            if name not in known:
                self.refuse(
                    (*key, name), f"not known: expected one of {', '.join(known)}"
                )
        values = {}
        for name, one in known.items():
            if name in table:
                values[name] = self.value(
                    table[name], kinds[name], one.metadata, (*key, name)
                )
            elif one.default is MISSING and one.default_factory is MISSING:
                self.refuse(key or (name,), f"{name} is missing")
        return cls(**values)

    def value(self, value: Any, kind: Any, limits: Mapping[str, Any], key: _Key) -> Any:
        if isinstance(kind, types.UnionType):
            kind = next(k for k in kind.__args__ if k is not types.NoneType)
        if is_dataclass(kind):
            return self.table(value, typing.cast(type, kind), key)
        if typing.get_origin(kind) is tuple:
            (of, *_) = typing.get_args(kind)
            if not isinstance(value, list):
                self.refuse(key, "expected a list")
            return tuple(
                self.value(one, of, limits, (*key, i)) for i, one in enumerate(value)
            )
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            words = {int: "an integer", float: "a number", str: "a text"}
            self.refuse(key, f"expected {words.get(kind, 'true or false')}")
        least, most = limits.get("least"), limits.get("most")
        if (least is not None and not value >= least) or (
            most is not None and not value <= most
        ):
            to = f" to {most:g}" if most is not None else " or more"
            self.refuse(key, f"{value:g} is out of range: expected {least:g}{to}")
        if limits.get("words") and value not in limits["words"]:
            self.refuse(key, f"{value!r}: expected one of {', '.join(limits['words'])}")
        return value


def _lines(text: str) -> dict[_Key, int]:
    """The line of each key and table, as far as a line tells: tomllib keeps none."""
    lines: dict[_Key, int] = {}
    counts: dict[_Key, int] = {}
    table: _Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = ()
            parts = [part.strip(" \"'") for part in header[2].split(".")]
            for i, part in enumerate(parts):
                table = (*table, part)
                if header[1] == "[[" and i == len(parts) - 1:
                    counts[table] = counts.get(table, -1) + 1
                    lines.setdefault(table, number)
                if table in counts:
                    table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key[1]), number)
    return lines
