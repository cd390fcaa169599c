"""Limits set and shown from a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.cli.main import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(["budget", *arguments])
    out = capsys.readouterr()
    return f"{status} {out.out}{out.err}".strip()


def test_the_command_line_limits_the_user_a_project_and_its_evals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(tmp_path / "budgets.db"))
    monkeypatch.chdir(tmp_path)
    assert said(capsys) == "0 nothing is limited yet: agentkit budget user 5usd/day"
    assert not (tmp_path / "budgets.db").exists()
    assert said(capsys, "user", "5usd/day,", "100k", "tokens/day") == "0 the user: 5.00usd per day, 100k tokens per day"
    assert said(capsys, "project", "2usd/day", "--at-limit", "stop").endswith("2.00usd per day; at the limit: stop")
    assert "eval" in said(capsys, "eval", "1usd/day")
    assert "is more than the project allows (2.00usd per day)" in said(capsys, "eval", "3usd/day")
    tree = said(capsys)
    assert [line.split()[0] for line in tree.removeprefix("0 ").splitlines()] == ["user", "user", "project", "eval"]
    assert said(capsys, "user", "off") == "0 the user: no limit (was 5.00usd per day, 100k tokens per day)"
    assert said(capsys, "user", "lots").startswith("1 agentkit: agentkit budget user 'lots' cannot be read")
    assert "has none: give one too" in said(capsys, "user", "--at-limit", "ask")
