"""The context of the request that is being made: a block takes back the fields that it changed, and no others."""

from __future__ import annotations

import contextvars

from agentkit.models.request_context import Attempts, current_request, request_with, update_request


def test_a_block_takes_back_its_own_fields_and_no_others() -> None:
    def in_a_context_of_its_own() -> None:
        tried = Attempts()
        with request_with(affordable=frozenset({"a"})):
            assert current_request.get().affordable == frozenset({"a"})
            # The chain notes what it tried inside the block, and is asked for it after.
            update_request(attempts=tried)
        assert current_request.get().affordable is None
        assert current_request.get().attempts is tried

    contextvars.copy_context().run(in_a_context_of_its_own)
    assert current_request.get().attempts is None
