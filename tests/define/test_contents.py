"""What objects of libraries hold is hashed without being loaded, within bounds."""

from __future__ import annotations

import sqlite3
from collections import Counter

import numpy
import pytest

from agentkit.define.contents import BYTES_PER_SECOND, TooLarge, data, pickled, scalar


def test_an_object_is_known_by_what_it_would_be_saved_as() -> None:
    assert pickled(Counter("abca"), 1, by_name) == pickled(Counter("abca"), 1, by_name)
    assert pickled(Counter("abca"), 1, by_name) != pickled(Counter("abcb"), 1, by_name)


def test_saving_stops_at_the_bound() -> None:
    with pytest.raises(TooLarge):
        pickled(b"x" * 1_000, 100 / BYTES_PER_SECOND, by_name)


def test_what_cannot_be_saved_raises() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        pickled(sqlite3.connect(":memory:"), 1, by_name)


def test_size_and_not_the_clock_decides_what_is_too_large() -> None:
    cells = numpy.zeros(1_000)
    assert data(cells, cells.nbytes / BYTES_PER_SECOND, repr_digest) == data(cells, 1, repr_digest)
    found = data(cells, (cells.nbytes - 1) / BYTES_PER_SECOND, repr_digest)
    assert found is not None
    assert not found[1]


def by_name(code: object) -> None:
    return None


def repr_digest(cells: list[object]) -> bytes:
    return repr(cells).encode()


@pytest.mark.parametrize("value", [[], {}, set(), object(), numpy.zeros(1), True])
def test_what_has_parts_is_no_scalar(value: object) -> None:
    assert (scalar(value) is None) == (value is not True)
