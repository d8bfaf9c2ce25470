"""Every policy through `piscope analyze` over real traces, and what compares them."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import SAMPLES

from piscope.commands.analyze import analyze
from piscope.commands.platform_option import parse_exit_reasons, parse_platform
from piscope.errors import UsageError
from piscope.model.policy import POLICIES, Platform

TRACES = (
    "vmx-6.17.13-ipiv-tools.p_rich.perf.data",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
)
KNOWN = ("unloaded_notifications", "residual_notifications", "wrong_vcpu")


@cache
def values(trace: str, *options: str) -> Any:
    result = CliRunner().invoke(
        analyze, ["--json", *options, str(SAMPLES / trace)], standalone_mode=False
    )
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def all_policies(trace: str) -> Any:
    return values(trace, *(word for name in POLICIES for word in ("--policy", name)))


@pytest.mark.parametrize("trace", TRACES)
def test_all_at_once_is_each_pair(trace: str) -> None:
    together = all_policies(trace)["policies"]
    assert list(together) == list(POLICIES)
    for one, other in combinations(POLICIES, 2):
        difference = values(trace, "--policy", one, "--policy", other)
        for name in (one, other):
            assert difference["policies"][name] == together[name]
        (of,) = difference["differences"].values()
        for key in KNOWN:
            a, b = together[one][key], together[other][key]
            assert of[key] == {"min": b["min"] - a["max"], "max": b["max"] - a["min"]}
        if trace != TRACES[0]:
            break  # the other traces: one pair, the policies all at once


@pytest.mark.parametrize("trace", TRACES)
def test_what_policies_are_for(trace: str) -> None:
    of = all_policies(trace)["policies"]
    most = {name: p["unloaded_notifications"]["max"] for name, p in of.items()}
    known = {name: p["known"]["unloaded_notifications"] for name, p in of.items()}
    # each suppresses wherever the one before it does
    for less, more in (
        ("suppress-at-exit", "suppress-on-put"),
        ("suppress-on-put", "preempt-only"),
        ("preempt-only", "no-suppression"),
    ):
        assert most[less] <= most[more]
        assert known[less]["max"] <= known[more]["max"]
    assert (
        of["more-fastpath"]["unloaded_notifications"]
        == (of["suppress-on-put"]["unloaded_notifications"])
    )
    # with SN from exit to entry nothing by hardware finds the vCPU in the host
    assert of["suppress-at-exit"]["outcomes"]["host"]["min"] == 0
    assert (
        of["suppress-at-exit"]["residual_notifications"]["max"]
        <= of["suppress-on-put"]["residual_notifications"]["max"]
    )


@pytest.mark.parametrize("trace", TRACES[:2])
def test_suppressing_at_the_exit_costs_a_scan_an_entry(trace: str) -> None:
    summary = all_policies(trace)
    entries = sum(vcpu["entries"] for vcpu in summary["vcpus"])
    at_exit = summary["policies"]["suppress-at-exit"]["costs"]
    on_put = summary["policies"]["suppress-on-put"]["costs"]
    # every entry scans; in vain, unless something was posted since the exit
    posts = sum(
        summary["question"][k] for k in ("as_hardware", "as_software", "from_windows")
    )
    # and those that only ON at a put betrays
    posts += summary["policies"]["suppress-on-put"]["known"]["residual_notifications"][
        "max"
    ]
    assert at_exit["pir_scans"]["max"] >= entries
    assert at_exit["empty_scans"]["max"] >= entries - posts
    assert at_exit["empty_scans"]["max"] <= at_exit["pir_scans"]["max"]
    assert on_put["pir_scans"]["max"] < entries


def test_legacy_policies_say_that_they_are_as_if() -> None:
    of = all_policies(TRACES[0])["policies"]
    assert {name for name, p in of.items() if p["as_if"]} == {
        "legacy-5.10",
        "legacy-5.15",
        "suppress-at-exit",
        "more-fastpath",
        "no-suppression",
    }


def test_more_fastpath_by_reasons() -> None:
    trace = TRACES[0]
    more = ("--policy", "suppress-on-put", "--policy", "more-fastpath")
    every = ",".join(str(h["reason"]) for h in values(trace)["handlers"])
    few, many = (values(trace, *more, "--fastpath", r) for r in ("CPUID", every))
    for summary, option in ((few, "CPUID"), (many, every)):
        assert summary["question"]["replayed_with"] == {"fastpath": option}
        on_put = summary["policies"]["suppress-on-put"]
        fast = summary["policies"]["more-fastpath"]
        assert fast["unloaded_notifications"] == on_put["unloaded_notifications"]
        saved = sum(
            h["savable"]["suppress-on-put"]["max"]
            for h in summary["handlers"]
            if str(h["reason"]) in option.split(",")
        )
        host = on_put["outcomes"]["host"]["max"] - fast["outcomes"]["host"]["max"]
        assert host <= saved
    # nor is there room left for unseen ones in what goes straight back
    assert (
        many["policies"]["more-fastpath"]["residual_notifications"]["max"]
        < few["policies"]["more-fastpath"]["residual_notifications"]["max"]
    )


@pytest.mark.parametrize("trace", TRACES)
def test_handlers_are_ranked(trace: str) -> None:
    summary = values(trace)
    handlers, policies = summary["handlers"], summary["policies"]
    assert handlers, "the ranking is there whether a post is visible or not"
    known = [h["residual"]["preempt-only"]["max"] for h in handlers]
    assert known == sorted(known, reverse=True)
    assert sum(known) <= policies["preempt-only"]["outcomes"]["host"]["max"]
    for h in handlers:
        assert 0 <= h["straight_back"] <= h["exits"]
        assert 0 <= h["straight_back_ns"] <= h["host_ns"]
        assert (
            h["savable"]["preempt-only"]["max"] <= h["residual"]["preempt-only"]["max"]
        )


def test_exits_by_wakeup_vectors_are_told() -> None:
    seen = values(TRACES[0])["observed"]
    assert seen["wakeup_exits"] > 0
    assert seen["notification_exits"] == 0


@pytest.mark.parametrize("trace", TRACES)
def test_posts_by_row_are_all_posts(trace: str) -> None:
    for policy in values(trace)["policies"].values():
        posts = sum(policy["rows"].values())
        assert policy["not_certain"] <= posts
        assert posts <= sum(b["max"] for b in policy["outcomes"].values())


def test_a_vm_that_needs_no_pi_wakeup_never_has_sn_set() -> None:
    trace = TRACES[1]
    plain = values(trace)["policies"]
    without = values(trace, "--platform", "assigned_device=no")["policies"]
    for name in plain:
        assert without[name]["outcomes"]["silent-sn"]["max"] == 0
        # its puts do nothing, under either policy
        assert (
            without[name]["unloaded_notifications"]["max"]
            >= (plain[name]["unloaded_notifications"]["max"])
        )
    with_ipiv = ("--platform", "assigned_device=no", "--platform", "ipiv=yes")
    assert values(trace, *with_ipiv)["policies"] == plain


@pytest.mark.parametrize(
    "options",
    [
        ("--fastpath", "EPT_MISCONFIG"),
        ("--policy", "more-fastpath", "--fastpath", "EPT_MISS"),
        ("--policy", "more-fastpath", "--fastpath", ""),
        ("--policy", "more-fastpath", "--fastpath", "70000"),
        ("--platform", "gate"),
        ("--platform", "gate=4.19"),
        ("--platform", "ipiv=1"),
        ("--platform", "avic=yes"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        values(TRACES[0], *options)


def test_words_of_the_options() -> None:
    assert parse_exit_reasons("ept_misconfig, 30,0x20") == {49, 30, 32}
    assert parse_exit_reasons("PENDING_INTERRUPT") == {7}
    assert parse_platform(()) == Platform()
    assert parse_platform(("gate=5.15", "td_vcpu=yes")) == Platform(
        gate="5.15", td_vcpu=True
    )
