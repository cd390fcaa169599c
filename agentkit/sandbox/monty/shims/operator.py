"""The functions of `operator` that are operators, and `itemgetter` and `attrgetter`."""

from typing import Any

SPELLED = {"abs": "_abs", "pow": "_pow"}
"""Names that a module here cannot define without losing the builtin."""


def itemgetter(item: Any, *items: Any) -> Any:
    if not items:
        return lambda obj: obj[item]
    return lambda obj: tuple([obj[one] for one in (item, *items)])


def attrgetter(attr: Any, *attrs: Any) -> Any:
    if not attrs:
        return lambda obj: _attribute(obj, attr)
    return lambda obj: tuple([_attribute(obj, one) for one in (attr, *attrs)])


def _attribute(obj: Any, path: Any) -> Any:
    for name in path.split("."):
        obj = getattr(obj, name)
    return obj


def add(a: Any, b: Any) -> Any:
    return a + b


def sub(a: Any, b: Any) -> Any:
    return a - b


def mul(a: Any, b: Any) -> Any:
    return a * b


def truediv(a: Any, b: Any) -> Any:
    return a / b


def floordiv(a: Any, b: Any) -> Any:
    return a // b


def mod(a: Any, b: Any) -> Any:
    return a % b


def _pow(a: Any, b: Any) -> Any:
    return a**b


def neg(a: Any) -> Any:
    return -a


def pos(a: Any) -> Any:
    return +a


def _abs(a: Any) -> Any:
    return abs(a)


def inv(a: Any) -> Any:
    return ~a


invert = inv


def and_(a: Any, b: Any) -> Any:
    return a & b


def or_(a: Any, b: Any) -> Any:
    return a | b


def xor(a: Any, b: Any) -> Any:
    return a ^ b


def lshift(a: Any, b: Any) -> Any:
    return a << b


def rshift(a: Any, b: Any) -> Any:
    return a >> b


def eq(a: Any, b: Any) -> Any:
    return a == b


def ne(a: Any, b: Any) -> Any:
    return a != b


def lt(a: Any, b: Any) -> Any:
    return a < b


def le(a: Any, b: Any) -> Any:
    return a <= b


def gt(a: Any, b: Any) -> Any:
    return a > b


def ge(a: Any, b: Any) -> Any:
    return a >= b


def is_(a: Any, b: Any) -> Any:
    return a is b


def is_not(a: Any, b: Any) -> Any:
    return a is not b


def not_(a: Any) -> Any:
    return not a


def truth(a: Any) -> Any:
    return bool(a)


def concat(a: Any, b: Any) -> Any:
    if not isinstance(a, (str, bytes, list, tuple)):
        raise TypeError(f"'{type(a).__name__}' object can't be concatenated")
    return a + b


def contains(a: Any, b: Any) -> Any:
    return b in a


def getitem(a: Any, b: Any) -> Any:
    return a[b]


def setitem(a: Any, b: Any, c: Any) -> Any:
    a[b] = c


def countOf(a: Any, b: Any) -> Any:
    return sum([1 for item in a if item is b or item == b])
