"""`%agent doctor`: whether the models that are configured here can be used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentkit.engine.doctor import examine
from agentkit.notebook import look
from agentkit.notebook.desk import Desk, Reply
from agentkit.notebook.display import show
from agentkit.notebook.line import Line


async def doctor(desk: Desk, line: Line) -> Reply:
    from agentkit.observe import doctor as shown

    checkups = await examine({"": look.model(line.rest, desk.names)} if line.rest else _configured(desk))
    scrub = desk.session.redactor.scrub_again
    found = [replace(one, model=scrub(one.model), problem=scrub(one.problem)) for one in checkups]
    bundle = {"text/html": shown.html(found), "text/plain": shown.text(found)}
    return Reply(value=shown.frame(found), show=lambda: show(bundle, raw=True))


def _configured(desk: Desk) -> dict[str, Any]:
    """The session's model and that of each agent of the notebook."""
    agents = {name: getattr(agent, "model", None) for name, agent in look.agents(desk.names).items()}
    return {"the session": desk.session.model, **{name: model for name, model in agents.items() if model is not None}}
