"""A program's `main` on Flyte's local controller that keeps traces as the platform does: `… FILE TRACES KEYS`.

Flyte's own local mode records no trace. This one persists them under the platform's own identities, so that what a
program does on a cluster after a crash can be seen without one. It stands on private parts of Flyte, as a test may.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from agentkit.pipeline.proof import load

local: Any = importlib.import_module("flyte._internal.controllers._local_controller")
controllers: Any = importlib.import_module("flyte._internal.controllers")
convert: Any = importlib.import_module("flyte._internal.runtime.convert")
contexts: Any = importlib.import_module("flyte._context")
common: Any = importlib.import_module("flyteidl2.task.common_pb2")


def main(file: str, traces: str, keys: str) -> None:
    local.LocalController = _keeping(Path(traces), Path(keys))
    module = load(Path(file))
    flyte: Any = module.__dict__["flyte"]
    run = flyte.with_runcontext(mode="local", name="always-the-same", disable_run_cache=True)
    print("gave", run.run(module.__dict__["main"]).outputs())


def _keeping(traces: Path, keys: Path) -> Any:
    class Keeping(local.LocalController):  # type: ignore[misc]
        def _kept(self) -> sqlite3.Connection:
            connection = sqlite3.connect(traces)
            connection.execute("create table if not exists kept (id text primary key, value blob)")
            return connection

        async def get_action_outputs(self, interface: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            context = contexts.internal_ctx()
            task = context.data.task_context
            identity = convert.generate_trace_action_identity(function)
            with context.new_in_driver_literal_conversion(True) if context.is_task_context() else nullcontext():
                inputs = await convert.convert_from_native_to_inputs(interface, *args, **kwargs)
            digest = convert.generate_inputs_hash_from_proto(inputs.proto_inputs)
            group = task.group_data.name if task.group_data else ""
            number = task._call_counter.next(f"{identity}:{digest}:{group}")
            action, path = convert.generate_sub_action_id_and_output_path(task, identity, digest, number)
            with keys.open("a", encoding="utf-8") as file:
                file.write(f"{function.__name__} {args[0]} {action.name}\n")
            row = self._kept().execute("select value from kept where id = ?", (action.name,)).fetchone()
            if row is None:
                return controllers.TraceInfo(function.__name__, action, interface, path), False
            outputs = common.Outputs()
            outputs.ParseFromString(row[0])
            native = await convert.convert_outputs_to_native(interface, convert.Outputs(proto_outputs=outputs))
            return controllers.TraceInfo(function.__name__, action, interface, path, output=native), True

        async def record_trace(self, info: Any) -> None:
            if info.error:
                return
            context = contexts.internal_ctx()
            with context.new_in_driver_literal_conversion(True) if context.is_task_context() else nullcontext():
                outputs = await convert.convert_from_native_to_outputs(info.output, info.interface, info.name)
            connection = self._kept()
            connection.execute(
                "insert or replace into kept values (?, ?)",
                (info.action.name, outputs.proto_outputs.SerializeToString()),
            )
            connection.commit()

    return Keeping


if __name__ == "__main__":
    main(*sys.argv[1:4])
