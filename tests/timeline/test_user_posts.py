"""Posts that a user gives: read, checked, and replayed as hardware's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeline.scene import Scene

from piscope.errors import PiscopeError, TraceFormatError
from piscope.model.letters import Letter
from piscope.origins import Given
from piscope.replay.hidden_posts import window_posts
from piscope.replay.stimuli import build_stimuli
from piscope.timeline.user_posts import read_user_posts, with_user_posts


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "posts.csv"
    path.write_text(text)
    return str(path)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    for number in (0, 1):
        vcpu = scene.vcpu(number, cpu=number)
        vcpu.run()
        vcpu.enter()
        vcpu.exit()
        vcpu.leave()
        vcpu.run()
        vcpu.enter()
    scene.tick()
    return scene


def test_a_csv(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "vector,note,ts_ns,vcpu,agent\n0x41,a,5500, vcpu0 ,ipiv\n66,b,1000,1,\n",
    )
    posts = read_user_posts(path)
    assert posts.ts_ns.tolist() == [5500, 1000]
    assert posts.vector.tolist() == [0x41, 66]
    assert posts.agent.tolist() == [Given.IPIV, Given.VTD]
    assert [posts.names[i] for i in posts.target] == ["vcpu0", "1"]
    assert posts.row.tolist() == [2, 3]


def test_parquet_with_vm_and_vcpu_id(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    columns = {"ts_ns": [5500], "vm": [0], "vcpu_id": [1], "vector": [0x41]}
    pq.write_table(pa.table(columns), path)
    posts = read_user_posts(str(path))
    assert posts.names == ("vm0:1",)
    assert posts.agent.tolist() == [Given.VTD]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected columns ts_ns, vector, and vcpu, or vm and vcpu_id"),
        ("ts_ns,vm,vector\n", "line 1: expected columns"),
        ("ts_ns,vcpu,vector\n5,0\n", "line 2: 2 values, expected 3"),
        ("ts_ns,vcpu,vector\n5.5,0,65\n", "line 2: ts_ns '5.5': expected an integer"),
        ("ts_ns,vcpu,vector\n5,0,300\n", "line 2: vector '300': expected an integer"),
        ("ts_ns,vcpu,vector\n5,0,15\n", "line 2: vector '15'"),
        ("ts_ns,vcpu,vector\n\n5,,65\n", "line 3: vcpu '': expected a label"),
        ("ts_ns,vcpu,vector,agent\n5,0,65,nic\n", "agent 'nic': expected vtd, ipiv"),
        ("ts_ns,vcpu,vector\n" + "9" * 30 + ",0,65\n", "ts_ns '9999"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceFormatError) as error:
        read_user_posts(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(TraceFormatError, match="not a Parquet file"):
        read_user_posts(str(path))
    pq.write_table(pa.table({"ts_ns": [1.5], "vcpu": ["0"], "vector": [65]}), path)
    with pytest.raises(TraceFormatError, match=r"row 1: ts_ns 1\.5: expected"):
        read_user_posts(str(path))


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("posts") / "posts"
    for start in (b"", b"PAR1", b"ts_ns,vcpu,vector\n"):
        path.write_bytes(start + data)
        try:
            read_user_posts(str(path))
        except PiscopeError as error:
            assert "\n" not in str(error)


def test_they_are_replayed_as_hardwares_at_their_own_instant(
    tmp_path: Path, scene: Scene
) -> None:
    events, timeline = scene.events(), scene.timeline()
    # 4.5 us: vCPU 0 is in userspace (kvm_fpu load=0 at 4); 2.5 us: in the guest
    text = "ts_ns,vcpu,vector\n4500,0,65\n2500,0,66\n9000,1,67\n"
    posts = read_user_posts(written(tmp_path, text))
    given_ = with_user_posts(timeline, events, posts)
    assert given_.posts.ts_ns.tolist() == [2500, 4500, 9000]
    assert given_.posts.given.tolist() == [Given.VTD] * 3
    for posted in ("none", "msi"):
        stimuli = build_stimuli(given_, events, posted)
        mine = stimuli.letter == Letter.POST_HW
        assert stimuli.ts_ns[mine].tolist() == [2500, 4500, 9000]
        assert stimuli.vcpu[mine].tolist() == [0, 0, 1]
        assert stimuli.vector[mine].tolist() == [66, 65, 67]
        # in time order among the others of the vCPU
        for vcpu in (0, 1):
            assert (np.diff(stimuli.ts_ns[stimuli.vcpu == vcpu]) >= 0).all()


def test_a_post_that_the_user_says_kvm_made(tmp_path: Path, scene: Scene) -> None:
    text = "ts_ns,vcpu,vector,agent\n4500,0,65,kvm\n"
    posts = read_user_posts(written(tmp_path, text))
    events = scene.events()
    given_ = with_user_posts(scene.timeline(), events, posts)
    stimuli = build_stimuli(given_, events, "msi")
    assert Letter.POST_HW not in stimuli.letter.tolist()
    assert Letter.POST_SW_EITHER in stimuli.letter.tolist()


def test_one_that_probes_betray_is_not_counted_twice(tmp_path: Path) -> None:
    scene = Scene()
    a = scene.vcpu(0)
    a.run()
    a.enter()
    a.exit()
    a.unload()
    a.pi_put((0, 0), (0, 0, 0xF2))
    put = scene.now_ns
    a.pi_load(on=1, pir=1 << 65)
    a.enter()
    scene.tick()
    events, timeline = scene.events(), scene.timeline()
    assert window_posts(timeline).hidden.sum() == 1
    text = f"ts_ns,vcpu,vector\n{put + 100},0,%d\n"
    for vector, hidden in ((65, 0), (66, 1)):
        posts = read_user_posts(written(tmp_path, text % vector))
        given_ = with_user_posts(timeline, events, posts)
        assert window_posts(given_).hidden.sum() == hidden, vector


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("999,0,65", "line 2: ts_ns 999: outside of the trace, 1000 to 15000"),
        ("15001,0,65", "outside of the trace"),
        ("5000,7,65", "line 2: vCPU '7': this trace has"),
        ("5000,tid:5,65", "vCPU 'tid:5': this trace has"),
    ],
)
def test_rows_that_do_not_fit_the_trace(
    tmp_path: Path, scene: Scene, row: str, message: str
) -> None:
    posts = read_user_posts(written(tmp_path, f"ts_ns,vcpu,vector\n{row}\n"))
    with pytest.raises(TraceFormatError) as error:
        with_user_posts(scene.timeline(), scene.events(), posts)
    assert message in str(error.value)


def test_a_vcpu_id_that_two_vms_have(tmp_path: Path) -> None:
    scene = Scene(tgids={100: 1, 200: 2})
    for tid in (100, 200):
        vcpu = scene.vcpu(0, tid=tid)
        vcpu.run()
        vcpu.enter()
    posts = read_user_posts(written(tmp_path, "ts_ns,vcpu,vector\n2000,0,65\n"))
    with pytest.raises(TraceFormatError, match="could be vm0/vcpu0, vm1/vcpu0"):
        with_user_posts(scene.timeline(), scene.events(), posts)


def test_a_part_of_the_trace_takes_a_part_of_the_posts(
    tmp_path: Path, scene: Scene
) -> None:
    posts = read_user_posts(
        written(tmp_path, "ts_ns,vcpu,vector\n5000,0,65\n99000,0,65\n")
    )
    narrowed = with_user_posts(scene.timeline(), scene.events(), posts, narrowed=True)
    assert narrowed.posts.ts_ns.tolist() == [5000]
