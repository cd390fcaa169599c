"""How much a value is when it is written out: what a program holds once, and names often, counts each time."""

from __future__ import annotations

from typing import Any

import pydantic_monty as monty

_ITEM = 8


def weight(value: Any) -> int:
    """About the bytes of `value` as a tree, each shared part looked at once; RecursionError where it is too deep."""
    return _Scale().of(value)


class _Scale:
    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, value: Any) -> int:
        match value:
            case str() | bytes():
                return len(value) + _ITEM
            case int():
                return value.bit_length() // 8 + _ITEM
            case dict() | list() | tuple() | set() | frozenset() | monty.MontyClassProxy():
                if id(value) not in self._known:
                    self._known[id(value)] = self._together(value)
                return self._known[id(value)]
            case _:
                return _ITEM

    def _together(self, value: Any) -> int:
        items = value.attributes if isinstance(value, monty.MontyClassProxy) else value
        if isinstance(items, dict):
            return _ITEM + sum(self.of(key) + self.of(item) for key, item in items.items())
        return _ITEM + sum(self.of(item) for item in items)
