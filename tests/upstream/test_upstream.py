"""A suite that knows nothing of agentkit passes with every agent adopted, and each of its runs replays.

AGENTKIT_UPSTREAM=FOLDER (or a file) runs another suite, such as pydantic-ai's own tests from a checkout; without it the
small one here, which is what the continuous integration runs: pydantic-ai's sdist has no tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.upstream.adoption import KNOWN, known

ROOT = Path(__file__).parents[2]
OWN = Path(__file__).parent / "suite"


def test_every_difference_is_explained() -> None:
    given = os.environ.get("AGENTKIT_UPSTREAM")
    folder = Path(given).resolve() if given else OWN
    files = ["-o", "python_files=check_*.py"] if folder == OWN else []
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "adoption", "--timeout", "60", *files, str(folder)],
        cwd=ROOT if folder == OWN else folder.parent if folder.is_file() else folder,
        # The detector of blocking calls in pydantic-ai's own suite is about pydantic-ai's code, not about a journal's.
        env={**os.environ, "BLOCKBUSTER_ENABLED": "false", "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, timeout=3_000,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6_000:] + ran.stderr[-2_000:]
    assert " passed" in ran.stdout


def test_every_known_difference_says_why() -> None:
    assert KNOWN.exists()
    assert all(known().values())
