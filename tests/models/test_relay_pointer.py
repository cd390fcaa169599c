"""The file that says where a caller listens, from a folder that somebody else has made."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agentkit.models.relay.client import RelayClient


@pytest.fixture
def asked(tmp_path: Path) -> RelayClient:
    return RelayClient(
        tmp_path, owner=lambda: "1-0-0", secrets=lambda: {"OPENAI_API_KEY": "sk-secret"}, remark=lambda text: None
    )


def test_no_secret_goes_to_a_socket_of_another_user(
    asked: RelayClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        (tmp_path / "caller").write_text(json.dumps({"address": address}))
        somebody = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: somebody)
        assert asked._greet("greet") is None
        listening.settimeout(1)
        with listening.accept()[0] as peer:
            peer.settimeout(1)
            assert peer.recv(4096) == b""


@pytest.mark.parametrize(
    "pointer",
    [[], {}, {"address": 3}, {"address": "\0abstract"}, {"address": "/no/such"}, "not JSON", {"address": None}],
)
def test_a_pointer_to_nowhere_is_no_caller(asked: RelayClient, tmp_path: Path, pointer: Any) -> None:
    (tmp_path / "caller").write_text(pointer if isinstance(pointer, str) else json.dumps(pointer))
    assert asked._greet("greet") is None
