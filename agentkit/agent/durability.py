"""The one pydantic-ai capability: every operation of an agent run becomes a call at the journal's door."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, cast

from opentelemetry import trace
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.durable_exec import (
    BaseDurabilityCapability,
    CapabilityOperationId,
    DurabilityEngineSpec,
    DurableOperationId,
    EventStreamHandlerId,
    JournalCallableOperationBackend,
    ModelRequestId,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
)
from pydantic_ai.durable_exec._toolset import DurableMCPToolset
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset

from agentkit.agent.loop_operation import LoopOperation, StepEdit
from agentkit.agent.mcp_servers import Server
from agentkit.agent.model_request import ModelRequest, keep_instance, model_in_use, unwrap
from agentkit.agent.tool_call import ToolCall
from agentkit.approval import interrupt, recovery
from agentkit.approval.interrupt import function_of
from agentkit.debugger.gate import StepRequest
from agentkit.guards import loop_guard
from agentkit.journal.codec import RESULT_CODEC, encode_tool_result
from agentkit.journal.execution import current_run, current_step
from agentkit.journal.journal import Performed
from agentkit.journal.operation import Operation
from agentkit.models import resolve
from agentkit.models.request_context import request_with
from agentkit.runtime import describe, fallback_record, server_limits
from agentkit.runtime.live_stream import LiveModel, SourceModel, current_deltas, forward_deltas
from agentkit.runtime.run_state import FirstRequest, RunState, frame_of_run
from agentkit.sandbox.process import isolate
from agentkit.tools.digest import value_digest

ENGINE = "agentkit"


class JournalBackend(JournalCallableOperationBackend[None]):
    """Turns each durable operation into an `Operation` of its kind and gives it to the journal."""

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: None,
    ) -> object:
        frame = frame_of_run()
        if frame is None or isinstance(operation_id, EventStreamHandlerId):
            return await body()
        within = within_step(isolate.apart(operation_id, cache_key, body))
        step_request = None if frame.gate is None else _step_request(frame, operation_id, cache_key)
        if frame.gate is not None and step_request is not None:
            frame.gate.change_arguments(step_request)
        if isinstance(operation_id, ToolsetCallToolId):
            await _hold(frame, operation_id, name, cache_key)
        if frame.gate is None or step_request is None:
            performed = await frame.journal.perform(_call(frame, operation_id, name, cache_key), within)
        else:
            performed = await frame.gate.wait_at_step(
                frame.journal, step_request, lambda: _call(frame, operation_id, name, cache_key), within
            )
        _mark_span(performed, frame)
        if isinstance(operation_id, ToolsetGetToolsId | ToolsetGetInstructionsId) and frame.forward is not None:
            frame.forward.discovered[type(operation_id).__name__, operation_id.toolset_id] = performed.payload
        if isinstance(operation_id, ModelRequestId):
            fallback_record.note(frame, performed)
            frame.asked_live = not performed.replayed
            if performed.replayed and frame.forward is not None:
                performed = frame.forward.jump_from(performed, cast(RunContext[Any], cache_key[-1]))
        if isinstance(operation_id, ToolsetCallToolId):
            tool_name, args, _, tool = cast(tuple[Any, ...], cache_key)
            frame.ran.append(describe.in_one_line(str(tool_name), args, performed.payload))
            if performed.replayed and frame.asked_live:
                loop_guard.count_recorded_answer(frame, tool_name, args, tool, performed.payload)
        return performed.payload


async def _hold(frame: RunState, operation_id: ToolsetCallToolId, name: str, cache_key: tuple[Any, ...]) -> None:
    tool_name, args, ctx, tool = cache_key

    def call(arguments: Any) -> Operation:
        return _call(frame, operation_id, name, (tool_name, arguments, ctx, tool))

    await interrupt.hold(frame, tool_name, args, ctx, tool, call=call)


def within_step(body: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """What arrives from the wire inside the step is kept with it until the step is recorded."""

    async def perform() -> object:
        step = current_step()
        run = frame_of_run()
        relay = None if run is None or run.session is None else run.session.calling
        responses = None if step is None else step.responses
        with request_with(relay=relay, responses=responses), server_limits.explaining():
            return await body()

    return perform


def _mark_span(performed: Performed, frame: RunState) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes(
            {"agentkit.replayed": performed.replayed, "agentkit.step.id": performed.step, "agentkit.run.id": frame.id}
        )


def _call(frame: RunState, operation_id: DurableOperationId, name: str, cache_key: tuple[Any, ...]) -> Operation:
    match operation_id:
        case ModelRequestId():
            model_id, messages, settings, parameters, ctx = cache_key
            asked = ModelRequest.of(frame, model_in_use(model_id, ctx), model_id, messages, settings, parameters)
            if frame.row is not None and frame.first_request is None:
                frame.first_request = FirstRequest(
                    model_id=model_id, messages=list(messages), settings=settings, parameters=parameters, ctx=ctx,
                    parts=asked.key.parts,
                )  # fmt: skip
            return asked
        case ToolsetCallToolId(toolset_id=toolset):
            return _tool_call(frame, toolset, *cache_key)
        case ToolsetValidateToolArgumentsId(toolset_id=toolset):
            tool_name, args, ctx, _ = cache_key
            return LoopOperation.of(frame, "validate", f"{toolset}:{tool_name}", {"args": args}, ctx)
        case ToolsetGetToolsId(toolset_id=toolset) | ToolsetGetInstructionsId(toolset_id=toolset):
            (ctx,) = cache_key
            payload = {"operation": type(operation_id).__name__, "prompt": ctx.prompt}
            return LoopOperation.of(frame, "discovery", toolset, payload, ctx)
        case CapabilityOperationId(capability_id=capability, operation=operation):
            *given, ctx = cache_key
            return LoopOperation.of(frame, "capability", f"{capability}.{operation}", given, ctx)
        case _:
            # The union of operations may grow in a minor release: an unknown one is still recorded, by its content.
            ctx = next((value for value in cache_key if isinstance(value, RunContext)), None)
            given = [value for value in cache_key if not isinstance(value, RunContext)]
            return LoopOperation.of(frame, "capability", name, given, ctx)


def _step_request(frame: RunState, operation_id: DurableOperationId, cache_key: tuple[Any, ...]) -> StepRequest | None:
    """What stands at the gate of a stepped run; None for what is not a step that a person takes."""
    match operation_id:
        case ModelRequestId():
            model_id, messages, _, parameters, ctx = cache_key
            in_use = model_in_use(model_id, ctx)
            return StepRequest(
                kind="model",
                name=model_id or "" if in_use is None else resolve.identity(in_use),
                messages=tuple(messages),
                record=lambda name, edit: StepEdit.at(frame, name, edit, ctx),
                parameters=parameters,
                model=in_use,
            )
        case ToolsetCallToolId():
            name, args, ctx, tool = cache_key
            definition = getattr(tool, "tool_def", None)
            return StepRequest(
                kind="tool",
                name=name,
                messages=tuple(ctx.messages),
                record=lambda name, edit: StepEdit.at(frame, name, edit, ctx),
                arguments=args,
                validator=getattr(tool, "args_validator", None),
                schema=getattr(definition, "parameters_json_schema", None),
                call_id=ctx.tool_call_id,
                enters=hasattr(function_of(tool), interrupt.CALLED),
            )
        case _:
            return None


def _tool_call(frame: RunState, toolset: str, name: str, args: Any, ctx: RunContext[Any], tool: Any) -> Operation:
    function = function_of(tool)
    is_sync = function is not None and not getattr(tool, "is_async", True)
    return ToolCall.of(
        frame,
        f"{toolset}:{name}",
        args,
        name=name,
        function=function,
        declared=interrupt.declaration_of(tool),
        history=frame.chain.digest(ctx.messages, trusted=frame.trusted),
        deps=value_digest(ctx.deps) if ctx.deps is not None else None,
        encode=partial(encode_tool_result, name=name) if is_sync else None,
    )


class _RunServer(DurableMCPToolset[Any]):
    """An MCP toolset whose runs each hold their own `Server`."""

    async def for_run(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        of_run = await super().for_run(ctx)
        held = getattr(of_run, "_run_held", None)
        if held is not None:
            held.toolset = Server(held.toolset)
        return of_run


class JournalDurability(isolate.OutsideSessions, BaseDurabilityCapability[Any]):
    """Makes an agent durable: inside a session its steps are replayed from the journal or recorded in it."""

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name=ENGINE,
        durable_unit_noun="step",
        durable_container_noun="session",
        codec=RESULT_CODEC,
        tool_config_key=ENGINE,
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
    )

    @property
    def in_durable_context(self) -> bool:
        return current_run() is not None

    def _bind_models(self, agent: AbstractAgent[Any, Any]) -> None:
        if agent.model is not None:
            super()._bind_models(agent)
            return
        # A run gives the model, and an instance is known in this process: nothing has to be registered before.
        self._default_model_id = None
        self._models_by_id = dict(self._extra_models)

    def _wrap_and_register_leaf(self, ts: AbstractToolset[Any]) -> AbstractToolset[Any]:
        if ts._explicit_id is None and isinstance(ts, FunctionToolset) and ts.tools:
            # Stable where tools are added and toolsets change places: no two tools of an agent have one name.
            ts._id = f"toolset of {next(iter(ts.tools))}"
        return super()._wrap_and_register_leaf(ts)

    def get_durable_operation_backend(self) -> JournalBackend:
        return JournalBackend(
            agent_name=self.name,
            default_model_id=self.default_model_id,
            config=RoleBasedOperationConfig(model=None, event=None, capability=None, tool=None),
        )

    def _build_mcp_toolset(self, toolset: Any) -> Any:
        durable = super()._build_mcp_toolset(Server(toolset))
        # pydantic-ai finds its toolsets again by identity; what a run holds of it is a `Server`.
        durable.wrapped = toolset
        durable.__class__ = _RunServer
        return durable

    def _model_stream_event_handler(self) -> Any:
        return forward_deltas

    @asynccontextmanager
    async def _durable_model_scope(
        self, model_id: str | None, run_context: RunContext[Any], *, serving: bool = False
    ) -> AsyncGenerator[tuple[Model, RunContext[Any]]]:
        async with super()._durable_model_scope(model_id, run_context, serving=serving) as (model, ctx):
            yield (model if current_deltas() is None else SourceModel(model)), ctx

    async def _build_durable_model(self, ctx: RunContext[Any], request_context: ModelRequestContext) -> LiveModel:
        return LiveModel.of(await super()._build_durable_model(ctx, request_context))

    def _find_model_id(self, model: Model) -> str | None:
        try:
            return super()._find_model_id(model)
        except LibraryUserError:
            return self._register_instance(unwrap(model))

    def _find_registered_model_id_for_hook(self, model: Model) -> str | None:
        return self._find_model_id(model)

    def _register_instance(self, model: Model) -> str:
        key = keep_instance(model)
        self._models_by_id[key] = model
        return key

    async def before_run(self, ctx: RunContext[Any]) -> None:
        """Take a cancellation token, which the base refuses: a journal knows steps by content, not by their order.

        So a run may end anywhere, as with a task that is cancelled, and is taken up where it ended.
        """

    async def before_tool_execute(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: dict[str, Any]
    ) -> dict[str, Any]:
        if current_run() is None:
            await interrupt.refuse_without_session(ctx, call.tool_name, args)
        return await super().before_tool_execute(ctx, call=call, tool_def=tool_def, args=args)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        frame = frame_of_run()
        return None if frame is None else await interrupt.answers(frame, ctx, requests)

    async def on_run_error(self, ctx: RunContext[Any], *, error: BaseException) -> AgentRunResult[Any]:
        frame = frame_of_run()
        if frame is None:
            raise error
        return await recovery.instead(frame, ctx, error)

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        frame = frame_of_run()
        if frame is not None and frame.gate is not None:
            await frame.gate.revise(ctx, request_context)
        if frame is not None:
            await loop_guard.before_request(frame, ctx, request_context)
        return await super().before_model_request(ctx, request_context)


def enclosing_step() -> tuple[str, int] | None:
    """The run and place of the step that is running now, for a sub-agent's run to name as its parent."""
    step = current_step()
    return None if step is None else (step.run.id, step.ord)
