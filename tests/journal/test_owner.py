from __future__ import annotations

import os
import time
from pathlib import Path

from agentkit.journal import owner
from agentkit.journal.owner import Owner
from tests.journal.journaling import child


def held_elsewhere(folder: Path) -> tuple[str, int]:
    process = child(
        """
        from agentkit.journal.owner import Owner
        print(Owner(Path(arguments[0])).id, flush=True)
        signal.pause()
        """,
        folder,
    )
    with process:
        assert process.stdout is not None
        id = process.stdout.readline().strip()
        assert [owner.is_alive(folder, id) for _ in range(3)] == [True] * 3
        process.kill()
    return id, process.pid


def test_an_owner_lives_until_its_process_is_killed(tmp_path: Path) -> None:
    id, pid = held_elsewhere(tmp_path)
    assert id.startswith(f"{pid}-")
    assert not owner.is_alive(tmp_path, id)


def test_the_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    id, _ = held_elsewhere(tmp_path)
    mine = Owner(tmp_path)
    forming = tmp_path / "new-1-fresh"
    left = tmp_path / "new-1-left"
    forming.touch()
    left.touch()
    os.utime(left, (time.time() - 600, time.time() - 600))
    owner.sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {mine.id, forming.name}
    assert not owner.is_alive(tmp_path, id)
    mine.release()


def test_asking_about_ones_own_owner_does_not_let_go_of_it(tmp_path: Path) -> None:
    mine = Owner(tmp_path)
    for _ in range(3):
        assert owner.is_alive(tmp_path, mine.id)
        owner.sweep(tmp_path)
    process = child(
        """
        from agentkit.journal import owner
        print(owner.is_alive(Path(arguments[0]), arguments[1]))
        """,
        tmp_path,
        mine.id,
    )
    assert process.communicate(timeout=30)[0] == "True\n"
    mine.release()
    assert not owner.is_alive(tmp_path, mine.id)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_leads_elsewhere_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "owners").mkdir()
    (tmp_path / "elsewhere").touch()
    assert not owner.is_alive(tmp_path / "owners", "../elsewhere")
    assert not owner.is_alive(tmp_path / "no folder", "1-a")
    owner.sweep(tmp_path / "no folder")
