"""`key=value` texts to typed columns: probes, raw reports, events nobody described.

    (vmx_vcpu_pi_load+0x4/0x210 [kvm_intel]) cpu=0 vcpu=0 ctl=0xf20002   tracefs
    (ffffffffc04ba4b4) cpu=0 vcpu=0 ctl=0xf20002                         perf, report
    __probe_ip=ffffffffc04ba4b4 cpu=0 vcpu=0 ctl=0xf20002                report -R

A column's type is that of its first values and stays: 0x.. is uint64, decimal is
int64 (uint64 where it must be), anything else is str.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from piscope.sources.raw import Array
from piscope.sources.text_decode import (
    Decoded,
    Mask,
    decimals,
    hexadecimals,
    numbers,
    strings,
    words,
)
from piscope.sources.text_forms import EventText, TextField

__all__ = ("PROBE_HEAD", "PairReader")

PROBE_HEAD = re.compile(
    rb"\((?:[0-9a-f]{8,16}|[\w.$]+\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?(?: \[[\w-]+\])?"
    rb"|[^()]{1,256} <- [^()]{1,256})\)|__probe_(?:ip|func|ret_ip)="
)
"""How the payload of a kprobe or uprobe event begins."""

_MAX_COLUMNS = 128  # MAX_TRACE_ARGS of kernel/trace/trace_probe.h
_HEAD = re.compile(rb"\(([^()]{1,256})\) ?")
# One blank in the look-ahead, not a run of them: a run would be walked over and over.
_PAIR = re.compile(rb"(?<![\w.])([A-Za-z_]\w{0,63})=(.*?)(?=,? [A-Za-z_]\w{0,63}=|$)")
# A number, with the unit or the call address that may follow it.
_VALUE = re.compile(
    rb"(0x[0-9a-f]{1,16}|-?\d{1,20})(?:,?|,? +(?:\[|[0-9a-f]{6,16} ).*)"
)
_SYMBOLIC = re.compile(rb"[0-9a-f]{8,16}")
_COLON_PAIR = re.compile(rb"(?:^|, )(\w{1,64}): (?:0x)?([0-9a-f]{1,16})(?=,|$)")


class PairReader:
    """Reads the pairs of one event throughout one pass.

    known   types of the fields that the event is known to have
    fields  names of the keys to decode; None: all
    """

    def __init__(self, known: EventText | None, fields: tuple[str, ...] | None) -> None:
        self._known: dict[str, TextField] = {} if known is None else dict(known.by_name)
        self._fields = None if fields is None else frozenset(fields)
        self._kinds: dict[str, str] = {}

    def read(self, texts: Sequence[bytes]) -> tuple[dict[str, Array], dict[str, Mask]]:
        """Columns and their masks; a column without a mask is complete."""
        found = self._uniform(texts) or self._split(texts)
        columns: dict[str, Array] = {}
        valid: dict[str, Mask] = {}
        for name, (rows, values) in found.items():
            array, good = self._decode(name, values)
            if len(rows) < len(texts):
                full = np.zeros(len(texts), array.dtype)
                mask = np.zeros(len(texts), bool)
                full[rows] = array
                mask[rows] = True if good is None else good
                array, good = full, mask
            columns[name] = array
            if good is not None and not good.all():
                valid[name] = good
        return columns, valid

    def _wanted(self, name: str) -> bool:
        return self._fields is None or name in self._fields

    def _uniform(
        self, texts: Sequence[bytes]
    ) -> dict[str, tuple[range, Sequence[bytes]]] | None:
        """All lines at once, where they have the first line's keys and no blanks."""
        head = _HEAD.match(texts[0])
        pairs = _PAIR.findall(texts[0], 0 if head is None else head.end())
        names = [key.decode() for key, _ in pairs]
        if not names or len(names) > _MAX_COLUMNS or len(set(names)) < len(names):
            return None
        body = rb"\(([^()\n]{1,256})\) +" if head else rb"[^=\n]{0,256}?\b"
        body += b" +".join(
            key + (rb"=([^\s,]+),?" if self._wanted(name) else rb"=[^\s,]+,?")
            for (key, _), name in zip(pairs, names, strict=True)
        )
        tail = rb"(?: +[0-9a-f]{6,16} [^=\n]*)?$"
        found = re.findall(b"^" + body + tail, b"\n".join(texts), re.MULTILINE)
        if len(found) < len(texts):
            return None
        captured = [name for name in names if self._wanted(name)]
        if head:
            captured.insert(0, "")
        if not captured:
            return {}
        columns = [found] if len(captured) == 1 else list(zip(*found, strict=True))
        every = range(len(texts))
        by_name = {
            name: (every, values)
            for name, values in zip(captured, columns, strict=True)
        }
        if head:
            heads = list(by_name.pop("")[1])
            for name, values in _probe_place(heads).items():
                if self._wanted(name):
                    by_name[name] = (every, values)
        return by_name

    def _split(self, texts: Sequence[bytes]) -> dict[str, tuple[Array, list[bytes]]]:
        rows: dict[str, list[int]] = {}
        values: dict[str, list[bytes]] = {}
        for line, text in enumerate(texts):
            pairs: dict[str, bytes] = {}
            head = _HEAD.match(text)
            if head is not None:
                pairs = {k: v[0] for k, v in _probe_place([head[1]]).items()}
            start = 0 if head is None else head.end()
            for key, raw_value in _PAIR.findall(text, start) or _hex_pairs(text):
                value = raw_value.strip()
                number = _VALUE.fullmatch(value)
                pairs[key.decode()] = value if number is None else number[1]
            for name, value in pairs.items():
                if not self._wanted(name):
                    continue
                if name not in rows and len(rows) >= _MAX_COLUMNS:
                    continue
                rows.setdefault(name, []).append(line)
                values.setdefault(name, []).append(value)
        return {name: (np.array(rows[name], np.int64), values[name]) for name in rows}

    def _decode(self, name: str, values: Sequence[bytes]) -> Decoded:
        known = self._known.get(name)
        if known is not None:
            return _decode_known(known, values)
        kind = self._kinds.get(name)
        if kind is None:
            kind = _kind_of(name, values)
            if len(self._kinds) < _MAX_COLUMNS:
                self._kinds[name] = kind
        if kind == "hex":
            return hexadecimals(values, "u8")
        if kind == "decimal":
            array, good = decimals(values, "i8")
            if good is not None:  # u64 in decimal, beyond int64
                unsigned = decimals(values, "u8")
                return unsigned if unsigned[1] is None else (array, good)
            return array, good
        return strings([_unquoted(value) for value in values], "O")


def _decode_known(known: TextField, values: Sequence[bytes]) -> Decoded:
    """A field that a raw report prints as a number, or as the text that it is."""
    if known.decode in (words, strings) or known.dtype == "O":
        return known.decode([_unquoted(v) for v in values], known.dtype)
    if known.bare_hex:
        return hexadecimals(values, known.dtype)
    return numbers(values, known.dtype)


def _kind_of(name: str, values: Sequence[bytes]) -> str:
    if name in ("__probe_ip", "__probe_func", "__probe_ret_ip"):
        return "hex" if all(_SYMBOLIC.fullmatch(value) for value in values) else "text"
    kinds = {
        "text" if match is None else "hex" if match[1].startswith(b"0x") else "decimal"
        for match in map(_VALUE.fullmatch, values)
    }
    return kinds.pop() if len(kinds) == 1 else "text"


def _probe_place(heads: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Where a probe fired: addresses under the record's names, else symbols."""
    if all(b" <- " in head for head in heads):
        pairs = [head.split(b" <- ", 1) for head in heads]
        ends = {
            "__probe_ret_ip": [pair[0] for pair in pairs],
            "__probe_func": [pair[1] for pair in pairs],
        }
    else:
        ends = {"__probe_ip": list(heads)}
    return {
        name if all(map(_SYMBOLIC.fullmatch, values)) else f"{name}_symbol": values
        for name, values in ends.items()
    }


def _hex_pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """Arguments of a syscall: "fd: 1f, cmd: ae80", or the same with 0x."""
    return [(key, b"0x" + value) for key, value in _COLON_PAIR.findall(text)]


def _unquoted(value: bytes) -> bytes:
    if len(value) >= 2 and value[:1] == b'"' == value[-1:]:
        return value[1:-1]
    return value
