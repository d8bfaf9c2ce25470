"""What `piscope report` or `piscope analyze --json` made earlier, as a summary.

    DIR/summary.json    docs/json.md

To be read beside `piscope/report/summary.py`: what is not of that shape is refused.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as hints_of

from piscope.corpus import REPORT_NAME
from piscope.errors import TraceFormatError, UnanswerableError
from piscope.gate.measured import Options
from piscope.report.summary import SCHEMA_VERSION, Bounds, Summary

__all__ = ("is_report", "read_summary")

_MOST_BYTES = 256 << 20
_T = TypeVar("_T")


def read_summary(path: str, options: Options) -> Summary:
    """The summary of a whole trace, made with these options.

    Raises TraceFormatError, naming the key, where it is no summary of this version of
    the document, and UnanswerableError where it was narrowed, or answers another
    question than the options ask.
    """
    with Path(path).open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise TraceFormatError(f"more than {_MOST_BYTES:,} bytes, expected a summary")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema_version") != (
        SCHEMA_VERSION
    ):
        raise TraceFormatError(
            f"expected a summary with schema_version {SCHEMA_VERSION}"
        )
    summary = _made(Summary, document, "summary")
    for name, policy in summary.policies.items():
        for known in ("unloaded_notifications", "residual_notifications"):
            if known not in policy.known:
                _refuse(f"summary.policies.{name}.known.{known}", "this key")
        if policy.name != name:
            _refuse(f"summary.policies.{name}.name", "the name it has there")
    if summary.narrowed:
        raise UnanswerableError(f"made with --{' and --'.join(summary.narrowed)}")
    # what auto meant is the trace's own matter
    if options.posted not in ("auto", summary.question.posted):
        raise UnanswerableError(
            f"made with --posted {summary.question.posted}, the baseline asks for"
            f" {options.posted}: make it anew"
        )
    if options.ignore:
        raise UnanswerableError(
            "the baseline has options.ignore, and a report does not tell its own"
        )
    return summary


def _made(kind: type[_T], value: Any, at: str) -> _T:
    """A dataclass of the summary from plain values; unknown keys are of later ones."""
    if not isinstance(value, dict):
        _refuse(at, "an object")
    hints = hints_of(kind)
    made = {}
    for field in fields(cast(Any, kind)):
        place = f"{at}.{field.name}"
        if field.name in value:
            made[field.name] = _value(hints[field.name], value[field.name], place)
        elif field.default is MISSING and field.default_factory is MISSING:
            _refuse(place, "this key")
    result = kind(**made)
    if isinstance(result, Bounds) and result.min > result.max:
        _refuse(at, "min at most max")
    return result


def _value(kind: Any, value: Any, at: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (rest,) = [a for a in arguments if a is not type(None)]
        return _value(rest, value, at)
    if origin is list:
        if not isinstance(value, list):
            _refuse(at, "a list")
        return [_value(arguments[0], v, f"{at}[{i}]") for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            _refuse(at, "an object")
        return {k: _value(arguments[1], v, f"{at}.{k}") for k, v in value.items()}
    if is_dataclass(kind):
        return _made(cast(Any, kind), value, at)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        _refuse(at, f"{kind.__name__}")
    if kind is int and value < 0:
        _refuse(at, "at least 0")
    return value


def _refuse(at: str, expected: str) -> NoReturn:
    raise TraceFormatError(f"{at:.200}: expected {expected}")


def is_report(path: str) -> bool:
    """Whether a corpus has a report there, and no trace."""
    return PurePath(path).name == REPORT_NAME
