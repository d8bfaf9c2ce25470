"""The payload texts of one event, many lines at a time, to typed columns.

First the event's known forms, all lines at once; then, for lines that fit none,
each field by the word before it; and for events of which nothing is known, whatever
`key=value` pairs there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from piscope.sources.raw import Array
from piscope.sources.text_decode import Mask, decimals, hexadecimals
from piscope.sources.text_forms import (
    CompiledForm,
    EventText,
    TextField,
    When,
    compile_form,
)
from piscope.sources.text_pairs import PairReader

__all__ = ("Columns", "PayloadReader")

# One word, what separates it from its number, the number.
_LABELLED = re.compile(
    rb"(?<![\w.])([A-Za-z_]\w{0,63})(?:=| |: )(0x[0-9a-f]{1,16}|-?\d{1,20})(?![\w.])"
)
_RAW_REPORT = re.compile(rb"\w{1,64}=")


@dataclass(slots=True)
class Columns:
    """Fields of n lines, as raw.Payload has them.

    unfit    int64[k]: ascending lines that no form fits; what could be found in
             them by key is in the columns
    plugin   some line is in the words of a libtraceevent plugin
    raw      the lines are those of a raw report (-R)
    """

    columns: dict[str, Array]
    valid: dict[str, Mask]
    unfit: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    plugin: bool = False
    raw: bool = False


class PayloadReader:
    """Reads the payloads of one event throughout one pass.

    fields   names of the fields to decode; None: all
    whens    which forms the file can hold
    """

    def __init__(
        self,
        known: EventText | None,
        fields: tuple[str, ...] | None,
        whens: frozenset[When],
    ) -> None:
        self._known = known
        self._pairs = PairReader(known, fields)
        self._forms: list[CompiledForm] = []
        if known is not None:
            names = frozenset(known.by_name if fields is None else fields)
            self._names = names
            self._forms = [
                compile_form(form, known.fields, names)
                for form in known.forms
                if form.when in whens
            ]

    def read(self, texts: Sequence[bytes]) -> Columns:
        """The columns of these lines' payloads."""
        if self._known is None:
            return Columns(*self._pairs.read([text.strip() for text in texts]))
        joined = b"\n".join(texts)
        for at, form in enumerate(self._forms):
            found = form.pattern.findall(joined)
            if len(found) == len(texts):
                # The next block will be worded like this one.
                self._forms.insert(0, self._forms.pop(at))
                return self._all_of(form, found)
        texts = [text.strip() for text in texts]
        if all(map(_RAW_REPORT.match, texts)):
            return Columns(*self._pairs.read(texts), raw=True)
        return self._line_by_line(self._known, texts)

    def _all_of(self, form: CompiledForm, found: Sequence[object]) -> Columns:
        merged = _Merged(len(found))
        self._add_form(merged, form, None, found)
        return merged.columns(form.form.when == "plugins")

    def _line_by_line(self, known: EventText, texts: Sequence[bytes]) -> Columns:
        merged = _Merged(len(texts))
        lines: dict[int, list[int]] = {}
        found: dict[int, list[object]] = {}
        unfit: list[int] = []
        for line, text in enumerate(texts):
            for at, form in enumerate(self._forms):
                match = form.pattern.fullmatch(text)
                if match is not None:
                    groups = match.groups(b"")
                    lines.setdefault(at, []).append(line)
                    found.setdefault(at, []).append(
                        groups[0] if len(groups) == 1 else groups
                    )
                    break
            else:
                unfit.append(line)
        plugin = False
        for at, rows in lines.items():
            form = self._forms[at]
            self._add_form(merged, form, np.array(rows, np.int64), found[at])
            plugin |= form.form.when == "plugins"
        if unfit:
            self._by_label(known, texts, unfit, merged)
        columns = merged.columns(plugin)
        columns.unfit = np.array(unfit, np.int64)
        return columns

    def _add_form(
        self,
        merged: _Merged,
        form: CompiledForm,
        rows: Array | None,
        found: Sequence[object],
    ) -> None:
        """What `findall` (or `groups`) found in lines of one form."""
        captured: Mapping[str, Sequence[bytes]] = {}
        if len(form.captures) == 1:
            captured = {form.captures[0]: cast(Sequence[bytes], found)}
        elif form.captures:
            columns = zip(*cast(Sequence[tuple[bytes, ...]], found), strict=True)
            captured = dict(zip(form.captures, columns, strict=True))
        for text_field in form.fields:
            parts = [captured[capture] for capture in text_field.captures]
            values, good = text_field.decode(*parts, text_field.dtype)
            merged.add(text_field.name, rows, values, good)
        for name in form.form.hidden:
            if name in self._names and self._known is not None:
                merged.declare(name, self._known.by_name[name].dtype)

    def _by_label(
        self,
        known: EventText,
        texts: Sequence[bytes],
        unfit: list[int],
        merged: _Merged,
    ) -> None:
        """Numbers that stand behind their word, in lines that fit no form."""
        named: dict[str, TextField] = dict(known.by_name)
        for form in reversed(self._forms):
            for label, capture in form.labels.items():
                for text_field in form.fields:
                    if text_field.captures == (capture,):
                        named[label] = text_field
        values: dict[str, list[bytes]] = {}
        rows: dict[str, list[int]] = {}
        for line in unfit:
            for label, value in dict(_LABELLED.findall(texts[line])).items():
                wanted = named.get(label.decode())
                if wanted is None or wanted.decode not in (decimals, hexadecimals):
                    continue
                if wanted.name in self._names:
                    values.setdefault(wanted.name, []).append(value)
                    rows.setdefault(wanted.name, []).append(line)
        for name, column in values.items():
            array, good = known.by_name[name].decode(column, known.by_name[name].dtype)
            merged.add(name, np.array(rows[name], np.int64), array, good)
        # A field that this event has, found in no line at all, is still a column.
        for form in self._forms[:1]:
            for text_field in form.fields:
                merged.declare(text_field.name, text_field.dtype)


class _Merged:
    """Columns put together from groups of lines that were worded differently."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._columns: dict[str, Array] = {}
        self._valid: dict[str, Mask] = {}

    def declare(self, name: str, dtype: str) -> None:
        """A column of no value yet, unless there is one."""
        if name not in self._columns:
            self._columns[name] = np.zeros(self._length, dtype)
            self._valid[name] = np.zeros(self._length, bool)

    def add(
        self, name: str, rows: Array | None, values: Array, good: Mask | None
    ) -> None:
        """Values of some lines (None: of all)."""
        if rows is None:
            self._columns[name] = values
            self._valid[name] = np.ones(len(values), bool) if good is None else good
            return
        self.declare(name, values.dtype.str)
        self._columns[name][rows] = values
        self._valid[name][rows] = True if good is None else good

    def columns(self, plugin: bool) -> Columns:
        valid = {name: mask for name, mask in self._valid.items() if not mask.all()}
        return Columns(self._columns, valid, plugin=plugin)
