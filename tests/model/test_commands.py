"""`piscope model`: what each command prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from piscope.commands.model import model
from piscope.errors import PiscopeError
from piscope.model.explain import RULES
from piscope.model.policy import POLICIES, SWITCHES

DATA = Path(__file__).parents[1] / "data"


def invoke(*arguments, stdin=None):
    result = CliRunner().invoke(model, arguments, input=stdin)
    if result.exception and isinstance(result.exception, PiscopeError):
        raise result.exception
    return result


def test_policies_lists_policies_and_switches():
    output = invoke("policies").output
    for name in [*POLICIES, *SWITCHES]:
        assert name in output
    lines = output.splitlines()
    assert all(line == line.rstrip() for line in lines)


def test_policies_of_a_release():
    named = invoke("policies", "--release", "6.12.117+deb12-amd64")
    assert named.output == "preempt-only\n"
    with pytest.raises(PiscopeError, match="MAJOR"):
        invoke("policies", "--release", "?")


def test_show_prints_the_reviewed_table():
    shown = invoke("show", "--policy", "preempt-only").output
    assert shown == (DATA / "model" / "preempt-only.txt").read_text(encoding="utf-8")


def test_show_diff_and_dot():
    diff = invoke("show", "--diff", "preempt-only", "suppress-on-put")
    reviewed = DATA / "model" / "preempt-only..suppress-on-put.txt"
    assert diff.output == reviewed.read_text(encoding="utf-8")
    assert invoke("show", "--dot").output.startswith('digraph "suppress-on-put"')
    with pytest.raises(PiscopeError, match="only one of them"):
        invoke("show", "--dot", "--diff", "preempt-only", "suppress-on-put")
    assert invoke("show", "--policy", "newest").exit_code == 2


def test_run_a_file_and_standard_input():
    path = DATA / "conformance" / "descriptor_suppress-on-put.jsonl"
    text = path.read_text()
    assert invoke("run", str(path)).output == text
    head = "".join(text.splitlines(keepends=True)[:5])
    assert invoke("run", "-", stdin=head).output == head


def test_run_names_file_and_line(tmp_path):
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b'{"op":"load","vcpu":0,"cpu":1}\n\xff\n')
    with pytest.raises(PiscopeError, match=r"ops\.jsonl, line 2: not JSON"):
        invoke("run", str(path))
    with pytest.raises(PiscopeError, match="<stdin>, line 1: longer than"):
        invoke("run", "-", stdin="1" * (3 << 20))


def test_explain_all_or_some():
    output = invoke("explain").output
    for rule in RULES:
        assert f"{rule.name}\n" in output and rule.source in output
    some = invoke("explain", "kvm-posts", "sn_on_every_put").output
    assert "6737557442e5" in some and "vmx_deliver_posted_interrupt" in some
    assert "iommu-posts" not in some
    with pytest.raises(PiscopeError, match="no rule 'luck'"):
        invoke("explain", "luck")


def test_a_command_is_expected():
    result = invoke()
    assert result.exit_code == 2
    assert "policies, show, run, explain" in result.output
