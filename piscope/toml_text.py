"""TOML that a user wrote: what is wrong with it is said with its line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from piscope.errors import UsageError

__all__ = ("parse_toml",)


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """The document; `path` is for messages.

    Raises UsageError, with the line where tomllib tells one.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        message = re.sub(r" \(at line.*\)$", "", str(error))
        raise UsageError(
            f"no TOML: {message}", path=path, line=int(line[1]) if line else None
        ) from None
