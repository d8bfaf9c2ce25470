"""The language in which `text_events` says how an event is worded.

    Form("vcpu {vcpu_id:d}, rip {rip:x}{immediate_exit?[immediate exit]}")

is the print fmt "vcpu %u, rip 0x%lx%s" with a name for each conversion. A form is
compiled to one regular expression over bytes, so that all lines of an event in a
block are read by one `findall`. Every pattern is bounded or can't backtrack: texts
are hostile input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from piscope.sources.text_decode import (
    Decoded,
    decimals,
    flags_given,
    hexadecimals,
    looked_up,
    words,
)

__all__ = (
    "PATTERNS",
    "CompiledForm",
    "EventText",
    "Form",
    "TextField",
    "When",
    "bare_hexadecimal",
    "comm",
    "compile_form",
    "decimal",
    "given",
    "hexadecimal",
    "one_of",
)

PATTERNS = {
    "d": r"-?\d{1,20}",
    "x": r"[0-9a-f]{1,16}",  # behind 0x, if that is printed
    "w": r"[\w-]{1,32}",
    # TASK_COMM_LEN; greedy, so that a name may hold " prev_pid=1" itself
    "comm": r".{0,16}",
    "reason": r".{1,48}?",
    "soft": r"IRQ|Soft/INTn",
    "state": r"[A-Za-z0-9|+]{1,24}",
    "update": r"[a-z ]{1,32}?",
    "symbol": r"\S{1,256}",
    "rest": r".*",
}
"""What a capture may be, by the word behind its name in a form."""

When = Literal["always", "tracefs", "tools", "plugins", "no plugins"]
"""Who prints a form: the kernel itself (tracefs), libtraceevent from a print fmt or
otherwise (tools), one of its plugins; "no plugins": all but these."""

_CAPTURE = re.compile(r"\{(\w+)(?::(\w+)|\?([^}]*))\}")
_LABEL = re.compile(r"(\w+)[ :=]+$")


@dataclass(frozen=True, slots=True)
class TextField:
    """A kernel field, and the captures of a form that it is read from.

    name      the kernel's; dtype numpy's, as raw.Payload has it
    captures  one sequence of bytes each is handed to `decode`, in this order
    bare_hex  print fmt says %x: `report -R` prints it without 0x
    """

    name: str
    dtype: str
    captures: tuple[str, ...]
    decode: Callable[..., Decoded]
    bare_hex: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """One wording. "{vcpu_id:d}" captures; "{gp?text}" captures the text or nothing.

    when    which texts can hold it
    hidden  fields that the event may have but this wording leaves out
    """

    text: str
    when: When = "always"
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventText:
    """All that is known of one event's text.

    A field may be listed more than once, with other captures for other forms.
    """

    fields: tuple[TextField, ...]
    forms: tuple[Form, ...]
    by_name: Mapping[str, TextField] = field(init=False)

    def __post_init__(self) -> None:
        names = {text_field.name: text_field for text_field in reversed(self.fields)}
        object.__setattr__(self, "by_name", names)


def decimal(name: str, dtype: str, capture: str | None = None) -> TextField:
    """A field that is printed in decimal."""
    return TextField(name, dtype, (capture or name,), decimals)


def hexadecimal(name: str, dtype: str, capture: str | None = None) -> TextField:
    """A field that is printed as 0x%x, or as %x where only text is read."""
    return TextField(name, dtype, (capture or name,), hexadecimals)


def bare_hexadecimal(name: str, dtype: str) -> TextField:
    """A field that is printed as %x, which a raw report prints the same way."""
    return TextField(name, dtype, (name,), hexadecimals, bare_hex=True)


def given(name: str, capture: str | None = None) -> TextField:
    """A bool that is true where some words are printed at all."""
    return TextField(name, "u1", (capture or name,), flags_given)


def one_of(name: str, dtype: str, capture: str = "", **table: int) -> TextField:
    """A field of which each value is printed as a word."""
    by_word = {word.encode(): value for word, value in table.items()}
    return TextField(name, dtype, (capture or name,), looked_up(by_word))


def comm(name: str) -> TextField:
    """A task's name: char[TASK_COMM_LEN]."""
    return TextField(name, "S16", (name,), words)


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """A form as a pattern over whole lines: `pattern.findall` gives `captures`.

    Blanks before a payload are the tools' padding and mean nothing.

    fields   those whose captures the form has
    labels   the word before a capture -> that capture's name
    """

    form: Form
    pattern: re.Pattern[bytes]
    captures: tuple[str, ...]
    fields: tuple[TextField, ...]
    labels: Mapping[str, str]


def compile_form(
    form: Form, fields: tuple[TextField, ...], names: Set[str]
) -> CompiledForm:
    """The form's pattern, capturing what the fields in `names` are read from."""
    present = {match[1] for match in _CAPTURE.finditer(form.text)}
    used = tuple(
        text_field
        for text_field in fields
        if text_field.name in names and present.issuperset(text_field.captures)
    )
    needed = {capture for text_field in used for capture in text_field.captures}
    body, at, captures, labels = "", 0, [], {}
    for match in _CAPTURE.finditer(form.text):
        literal = form.text[at : match.start()]
        if (label := _LABEL.search(literal)) is not None:
            labels[label[1]] = match[1]
        optional = match[3]
        inner = PATTERNS[match[2]] if optional is None else re.escape(optional)
        opened = "(" if match[1] in needed else "(?:"
        if match[2] == "x":
            opened = "(?:0x)?" + opened
        body += re.escape(literal) + opened + inner + (")?" if optional else ")")
        if match[1] in needed:
            captures.append(match[1])
        at = match.end()
    body += re.escape(form.text[at:])
    # Lines may say more than the form: addresses, the fields of later kernels.
    pattern = re.compile(f"^ *{body}(?: .*)?$".encode(), re.MULTILINE)
    return CompiledForm(form, pattern, tuple(captures), used, labels)
