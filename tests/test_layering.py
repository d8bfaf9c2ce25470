"""The architecture, held to: who imports whom, how long, how named, how documented.

sources -> events -> timeline -> replay -> report
                         model ----^
                           '-> verify
commands, pipeline and cli may import all of them
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "piscope"
MODULES = sorted(PACKAGE.rglob("*.py"))

STAGES = {"sources", "events", "timeline", "model", "replay", "report", "verify"}

SHARED = {
    "piscope",  # __version__
    "piscope.errors",
    "piscope.interrupts",
    "piscope.events.vmx_exits",  # numbers and names of the kernel, nothing else
    "piscope.observed",
    "piscope.origins",
    "piscope.events_table",
    "piscope.outcomes",
    "piscope.parts",
    "piscope.posted",
    "piscope.schema",
    "piscope.sources.raw",
    "piscope.tables",
    "piscope.whole",
}
"""What every stage may import: the contracts between them."""

USES = {"replay": {"model"}, "verify": {"model"}}
"""The model is no stage of the arrow: nothing flows into it; replay walks it, and
verify holds it against what probes read."""

MODEL_MAY_IMPORT = {"numpy": {"table"}}
"""The model takes nothing from a trace; numpy only to lay out the table."""

GATE_MAY_IMPORT = {
    "piscope.corpus",
    "piscope.model.policy",  # the names of policies
    "piscope.output",
    "piscope.toml_text",
    "piscope.posted",  # the words of --posted
    "piscope.sliced_pipeline",
    "piscope.sources.detect",  # to open a trace
}
"""The gate stands behind the report: it runs the pipeline and knows no stage."""

ON_THE_WAY = {"piscope.events", "piscope.sources"}
"""`from piscope.sources import raw` names the package, whose __init__ is empty."""

FORBIDDEN_NAMES = {"common", "helpers", "manager", "misc", "util", "utils"}
MOST_LINES = 400


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports; `from a import b` gives a.b as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            for alias in node.names:
                if _is_module(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _stage(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in STAGES else None


@pytest.fixture(params=MODULES, ids=_name)
def module(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_stages_know_only_the_contracts(module: Path) -> None:
    stage = _stage(_name(module))
    if stage is None:
        return
    for imported in _imports(module):
        if not imported.startswith("piscope") or imported in SHARED:
            continue
        if imported in ON_THE_WAY:
            continue
        known = {stage, *USES.get(stage, ())}
        assert _stage(imported) in known, f"{_name(module)} imports {imported}"


def test_the_model_takes_nothing_from_a_trace(module: Path) -> None:
    if _stage(_name(module)) != "model":
        return
    for imported in _imports(module):
        top = imported.partition(".")[0]
        if imported.startswith("piscope.model") or imported == "piscope.errors":
            continue
        allowed = MODEL_MAY_IMPORT.get(top, set())
        assert top in sys.stdlib_module_names or module.stem in allowed, (
            f"the model imports {imported}"
        )


def test_the_gate_knows_reports_and_no_stage(module: Path) -> None:
    if not _name(module).startswith("piscope.gate"):
        return
    for imported in _imports(module):
        if not imported.startswith("piscope") or imported in SHARED | ON_THE_WAY:
            continue
        assert (
            imported in GATE_MAY_IMPORT
            or imported.startswith(("piscope.gate", "piscope.report"))
            or imported in {"piscope.model", "piscope.replay"}
        ), f"{_name(module)} imports {imported}"


def test_stories_are_told_of_an_analysis_and_not_of_bytes(module: Path) -> None:
    if not _name(module).startswith("piscope.explain"):
        return
    for imported in _imports(module):
        if imported in SHARED | ON_THE_WAY:
            continue
        assert _stage(imported) not in {"sources", "events", "timeline"}, imported


def test_comparisons_are_made_of_summaries(module: Path) -> None:
    if not _name(module).startswith("piscope.compare"):
        return
    for imported in _imports(module):
        if not imported.startswith("piscope") or imported in SHARED:
            continue
        assert imported.startswith(
            ("piscope.compare", "piscope.report", "piscope.gate")
        ), f"{_name(module)} imports {imported}"


def test_contracts_import_only_contracts() -> None:
    for path in MODULES:
        if _name(path) not in SHARED:
            continue
        for imported in _imports(path):
            assert (
                not imported.startswith("piscope")
                or imported in SHARED
                or imported in ON_THE_WAY
            ), f"{_name(path)} imports {imported}"


def test_nothing_imports_the_command_line(module: Path) -> None:
    name = _name(module)
    if name.startswith(("piscope.commands", "piscope.cli", "piscope.__main__")):
        return
    for imported in _imports(module):
        assert not imported.startswith(("piscope.commands", "piscope.cli")), imported


def test_size_and_name(module: Path) -> None:
    lines = len(module.read_text().splitlines())
    assert lines <= MOST_LINES, f"{_name(module)} has {lines} lines: it is two modules"
    assert module.stem not in FORBIDDEN_NAMES


def test_public_names_exist(module: Path) -> None:
    names = getattr(importlib.import_module(_name(module)), "__all__", ())
    for name in names:
        assert hasattr(importlib.import_module(_name(module)), name), name


def test_public_things_are_documented(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree), f"{_name(module)} has no docstring"
    for node in _public(tree.body):
        assert ast.get_docstring(node), f"{_name(module)}.{node.name} has no docstring"


def _public(
    body: list[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body)


def test_only_the_command_line_prints(module: Path) -> None:
    name = _name(module)
    if name.startswith(("piscope.commands", "piscope.cli")):
        return
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "eval", "exec"}, (
                f"{name}, line {node.lineno}: {node.func.id}()"
            )


def test_traces_are_never_unpickled(module: Path) -> None:
    assert not {"pickle", "marshal", "shelve"} & set(_imports(module))
