"""A corpus in a bucket: moto's server speaks S3, pyarrow's client reads from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from piscope.cli import run
from piscope.corpus import find_traces, local_file
from piscope.errors import PiscopeError

SAMPLES = (
    "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat",
    "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat",
)


@pytest.fixture(scope="module")
def bucket(samples: Path) -> Iterator[Callable[[str], str]]:
    """`nightly`, with two samples, a note and a broken trace; gives URLs below it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="nightly")
    for number, name in enumerate(SAMPLES):
        client.upload_file(str(samples / name), "nightly", f"kvm/{number}/{name}")
    client.put_object(Bucket="nightly", Key="kvm/notes.txt", Body=b"notes")
    client.put_object(Bucket="nightly", Key="broken/cut.dat", Body=b"\x17\x08\x44trac")
    options = f"scheme=http&endpoint_override={quote(f'{host}:{port}')}"
    yield lambda path: f"s3://key:secret@nightly/{path}?region=us-east-1&{options}"
    server.stop()


def test_a_bucket_is_listed_like_a_directory(bucket: Callable[[str], str]) -> None:
    corpus = find_traces([bucket("kvm")])
    assert [t.name for t in corpus.traces] == [
        f"{n}/{s}" for n, s in enumerate(SAMPLES)
    ]
    assert corpus.skipped == 1
    (trace,) = find_traces([bucket("kvm/1/*.dat")]).traces
    assert trace.name == SAMPLES[1]


def test_a_trace_of_a_bucket_is_the_same_bytes(
    bucket: Callable[[str], str], samples: Path
) -> None:
    (trace,) = find_traces([bucket(f"kvm/0/{SAMPLES[0]}")]).traces
    with local_file(trace.path) as path:
        assert Path(path).read_bytes() == (samples / SAMPLES[0]).read_bytes()
    assert not Path(path).exists()


def test_what_a_bucket_has_not_is_named(bucket: Callable[[str], str]) -> None:
    with pytest.raises(PiscopeError, match="does not exist"):
        find_traces([bucket("nothing")])
    (trace,) = find_traces([f"gone={bucket('kvm/gone.dat')}"]).traces
    with pytest.raises(PiscopeError, match="can't be read"), local_file(trace.path):
        pass


def test_the_gate_over_a_bucket_is_that_over_files(
    bucket: Callable[[str], str],
    samples: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    baseline = tmp_path / "baseline.toml"

    def gate(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        always = ["gate", "--baseline", str(baseline), "--no-cache", "-j", "1"]
        return run([*always, *words]), capfd.readouterr().out

    for number, name in enumerate(SAMPLES):
        (tmp_path / "files" / str(number)).mkdir(parents=True)
        copy = tmp_path / "files" / str(number) / name
        copy.write_bytes((samples / name).read_bytes())
    assert gate(str(tmp_path / "files"), "--update")[0] == 0
    status, output = gate(bucket("kvm"))
    assert (status, "2 traces: 2 unchanged" in output) == (0, True)
    status, output = gate(bucket("kvm"), bucket("broken"), "--partial")
    assert (status, "cut.dat" in output, "2 unchanged" in output) == (2, True, True)
