"""What objects of libraries hold is hashed without being loaded, within bounds."""

from __future__ import annotations

import copy
import sqlite3
from collections import Counter
from typing import Any

import numpy
import pytest

from agentkit.values.hashing import BYTES_PER_SECOND, TooLarge, data, digest_pickle, scalar, tree


def test_an_object_is_known_by_what_it_would_be_saved_as() -> None:
    assert digest_pickle(Counter("abca"), 1, by_name) == digest_pickle(Counter("abca"), 1, by_name)
    assert digest_pickle(Counter("abca"), 1, by_name) != digest_pickle(Counter("abcb"), 1, by_name)


def test_saving_stops_at_the_bound() -> None:
    with pytest.raises(TooLarge):
        digest_pickle(b"x" * 1_000, 100 / BYTES_PER_SECOND, by_name)


def test_what_cannot_be_saved_raises() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        digest_pickle(sqlite3.connect(":memory:"), 1, by_name)


def test_a_change_in_place_anywhere_in_a_large_array_is_noticed() -> None:
    cells = numpy.random.default_rng(1).random(300_001)
    before = data(cells, repr_digest)
    assert data(cells, repr_digest) == before
    assert data(cells.copy(), repr_digest) == before
    for place in (0, 1, 150_000, 299_999, 300_000):
        kept = cells[place]
        for other in (-kept, numpy.nextafter(kept, 2), 0.0):
            cells[place] = other
            assert data(cells, repr_digest) != before
        cells[place] = kept
    cells[[7, 8]] = cells[[8, 7]]
    assert data(cells, repr_digest) != before
    cells[[7, 8]] = cells[[8, 7]]
    assert data(cells, repr_digest) == before


def test_opposite_numbers_that_change_places_are_noticed() -> None:
    cells = numpy.ones(100_000)
    cells[::2] = -1
    before = data(cells, repr_digest)
    for one, other in ((0, 1), (4094, 4095), (0, 50_001), (10, 99_999)):
        cells[[one, other]] = cells[[other, one]]
        assert data(cells, repr_digest) != before
        cells[[one, other]] = cells[[other, one]]


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0, "a", b"b", None, True, {"k": [1, (2, 3)]}],
        {"a": {"b": [1, 2]}, 3: -0.0},
        (float("nan"), 10**50, "é\ud800"),
    ],
)
def test_a_tree_is_hashed_by_content(value: Any) -> None:
    other = copy.deepcopy(value)
    assert tree(value) == tree(other) is not None
    assert tree([value, value]) == tree([value, other])
    assert tree([value, 1]) != tree([value, True])


@pytest.mark.parametrize("value", [[{1}], [object()], [numpy.float64(1)], {"a": [Counter("a")]}])
def test_a_tree_of_anything_else_is_none(value: object) -> None:
    assert tree(value) is None


def by_name(code: object) -> None:
    return None


def repr_digest(cells: list[object]) -> bytes:
    return repr(cells).encode()


@pytest.mark.parametrize("value", [[], {}, set(), object(), numpy.zeros(1), True])
def test_what_has_parts_is_no_scalar(value: object) -> None:
    assert (scalar(value) is None) == (value is not True)
