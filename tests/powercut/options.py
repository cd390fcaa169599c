"""What can be chosen on the command line."""

from __future__ import annotations

import argparse
from typing import Literal, get_args

Kind = Literal["ext4", "xfs", "btrfs"]
Synchronous = Literal["full", "normal", "off"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.powercut",
        description="What is on disk after the power was cut at random moments. As root, on Linux.",
    )
    made.add_argument("--cuts", type=int, default=200)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--seconds", type=float, default=1800, help="begin no new run after this time")
    made.add_argument("--fs", choices=get_args(Kind), default="ext4")
    made.add_argument("--caller", action="store_true", help="calls are made by the caller")
    made.add_argument(
        "--synchronous",
        choices=get_args(Synchronous),
        default="full",
        help="the control: a journal that syncs less than agentkit's must lose steps",
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made
