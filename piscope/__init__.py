"""piscope: what VMX posted-interrupt notifications hit, read from KVM traces.

    import piscope
    result = piscope.analyze("trace.dat")
    print(result)
    result.findings.to_pandas()

docs/python.md has a worked example. Importing piscope loads nothing heavy: the names
are those of `piscope.api`, taken from there when they are first used. Type checkers
read `__init__.pyi`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_OF_API = ("ExitsResult", "Result", "analyze", "exits")


def __getattr__(name: str) -> Any:
    if name in _OF_API:
        return getattr(importlib.import_module("piscope.api"), name)
    if name == "PiscopeError":
        return importlib.import_module("piscope.errors").PiscopeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_OF_API, "PiscopeError", "__version__"]
