from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agentkit.journal.storage import BALLAST, on_network
from agentkit.journal.store import Store
from tests.journal.journaling import record

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/fast tmpfs rw 0 0
you@host:/ /mnt/far\\040away fuse.sshfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/srv/.agentkit/journal.db", False),
        ("/home/me/project/.agentkit/journal.db", True),
        ("/home/me/fast/.agentkit/journal.db", False),
        ("/homestead/.agentkit/journal.db", False),
        ("/mnt/far away/.agentkit/journal.db", True),
    ],
)
def test_a_network_disk_is_known_by_its_nearest_mount(path: str, expected: bool) -> None:
    assert on_network(Path(path), MOUNTS) is expected


def test_this_machine_s_own_mounts_can_be_read(tmp_path: Path) -> None:
    assert on_network(tmp_path) is False


def test_the_room_set_aside_is_really_allocated(tmp_path: Path) -> None:
    path = tmp_path / ".agentkit" / "journal.db"
    with Store.open(path):
        status = (path.parent / "ballast").stat()
    assert (status.st_size, status.st_blocks * 512 >= BALLAST) == (BALLAST, True)


def test_a_folder_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / ".agentkit"
    folder.mkdir()
    folder.chmod(0o755)
    with Store.open(folder / "journal.db"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_the_person_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o755)
    with Store.open(folder / "journal.db") as store:
        record(store)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
