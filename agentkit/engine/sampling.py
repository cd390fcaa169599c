"""Requests that an MCP server makes of a model through an agent: paid and not recorded, so they are refused."""

from __future__ import annotations

import sys
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.toolsets import AbstractToolset

from agentkit.errors import UserError


def refuse_sampling(agent: AbstractAgent[Any, Any]) -> None:
    """Raises UserError when a server of the agent was given a model to ask."""
    # Without the package no agent has such a server, and importing it takes a while.
    package = sys.modules.get("pydantic_ai.mcp")
    if package is None:
        return

    def look(toolset: AbstractToolset[Any]) -> None:
        if isinstance(toolset, package.MCPToolset) and toolset.sampling_model is not None:
            raise UserError(
                f"MCP server {toolset.id or toolset.label}: what it asks of the model it was given would be paid and "
                "not recorded; build the toolset without sampling_model, and leave out set_mcp_sampling_model()"
            )

    for toolset in agent.toolsets:
        toolset.apply(look)
