"""What was asked of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Target: TypeAlias = Literal["flyte", "script"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`container` and `cron` are for Flyte alone; `file` is what the program will be called."""

    target: Target = "flyte"
    file: str = "pipeline.py"
    container: bool = False
    cron: str | None = None
