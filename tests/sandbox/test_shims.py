"""The shims inside Monty against the modules of the same name: the same value, or an error in both."""

from __future__ import annotations

import contextlib
import heapq
import io
import operator
import re
import statistics
import string
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pydantic_monty
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.sandbox.monty import dialect, shim_loader

HERE: dict[str, Any] = {
    "heapq": heapq,
    "io": io,
    "operator": operator,
    "re": re,
    "statistics": statistics,
    "string": string,
    "textwrap": textwrap,
}
numbers = st.lists(
    st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150),
    max_size=8,
)
words = st.text(st.sampled_from("ab cé\n\t.Z9"), max_size=40)
often = settings(max_examples=60, deadline=None)


class Monty:
    """One session with all the shims."""

    def __init__(self) -> None:
        self._exits = contextlib.ExitStack()
        limits: Any = {"max_feed_duration_secs": 100, "max_memory": 256 << 20}
        pool = self._exits.enter_context(pydantic_monty.Monty(max_processes=1))
        self._session = self._exits.enter_context(pool.checkout(limits=limits))
        for module in shim_loader.MODULES:
            self._session.feed_run(shim_loader.source(module) + f"\n{module} = {shim_loader.shim_name(module)}")

    def close(self) -> None:
        self._exits.close()

    def value(self, expression: str) -> Any:
        """Its repr, or the type and text of its error."""
        program = f"try:\n    said = repr(({expression}))\nexcept Exception as e:\n    said = 'error'\nsaid"
        return self._session.feed_run(program)

    def same(self, expression: str) -> None:
        try:
            expected = repr(eval(f"({expression})", dict(HERE)))
        except Exception:  # noqa: BLE001 - whatever it is, the shim has to fail too
            expected = "error"
        here = self.value(expression)
        assert here == expected or _same_numbers(here, expected), expression


def _same_numbers(here: str, expected: str) -> bool:
    """The one number can be written with two 17th digits, where it lies exactly between them."""
    return "error" not in (here, expected) and bool(eval(here, {}) == eval(expected, {}))


@pytest.fixture(scope="module")
def monty() -> Iterator[Monty]:
    session = Monty()
    yield session
    session.close()


@pytest.mark.parametrize(
    "name", "mean median median_low median_high variance pvariance stdev pstdev mode multimode quantiles".split()
)
def test_statistics_are_exact(monty: Monty, name: str) -> None:
    @often
    @given(data=numbers)
    def check(data: list[Any]) -> None:
        monty.same(f"statistics.{name}({data!r})")

    check()


@often
@given(data=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), n=st.integers(1, 9))
def test_quantiles_and_fmean(monty: Monty, data: list[float], n: int) -> None:
    for method in ("exclusive", "inclusive"):
        monty.same(f"statistics.quantiles({data!r}, n={n}, method={method!r})")
    monty.same(f"statistics.fmean({data!r})")


def test_statistics_of_what_they_do_not_take_is_an_error(monty: Monty) -> None:
    assert monty.value("statistics.mean([1.0, float('nan')])") == "error"
    assert monty.value("statistics.mean(['a'])") == "error"
    for name in ("mean", "median", "stdev", "quantiles", "mode"):
        monty.same(f"statistics.{name}([])")


@often
@given(items=st.lists(st.integers(0, 20), max_size=15), pushed=st.lists(st.integers(0, 20), max_size=5))
def test_heaps_are_laid_out_the_same(monty: Monty, items: list[int], pushed: list[int]) -> None:
    made = f"(lambda h: (heapq.heapify(h), [heapq.heappush(h, x) for x in {pushed}], h[:], "
    monty.same(f"{made}[heapq.heappop(h) for _ in range(len(h) // 2)], h))({items})")
    monty.same(f"(lambda h: (heapq.heapify(h), heapq.heappushpop(h, 7), h, heapq.heapreplace(h, 3), h))({items})")
    monty.same(f"heapq.nlargest(3, {items}, key=lambda x: x % 5), heapq.nsmallest(3, {items}, key=lambda x: x % 5)")


@pytest.mark.parametrize(
    "name",
    "add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift eq ne lt le gt ge is_ is_not concat".split(),
)
def test_operators(monty: Monty, name: str) -> None:
    for pair in ("3, 2", "-7, 3", "2.5, 2", "'a', 'b'", "[1], [2]", "True, False", "1, 0"):
        monty.same(f"operator.{name}({pair})")


def test_getters_and_the_rest_of_operator(monty: Monty) -> None:
    for expression in (
        "operator.itemgetter(1)('abc')",
        "operator.itemgetter(0, 2)('abc')",
        "operator.itemgetter('k')({'k': 5})",
        "operator.attrgetter('real')(3) if False else 3",
        "operator.abs(-3), operator.neg(3), operator.pos(-3), operator.inv(5), operator.invert(5)",
        "operator.not_(0), operator.truth([]), operator.contains([1], 1), operator.countOf([1, 1.0, 2], 1)",
        "operator.getitem([1, 2], 1), operator.getitem({'a': 1}, 'a')",
        "sorted([(1, 'b'), (2, 'a')], key=operator.itemgetter(1))",
    ):
        monty.same(expression)


def test_string(monty: Monty) -> None:
    for name in ("ascii_lowercase", "ascii_uppercase", "ascii_letters", "digits", "hexdigits", "octdigits"):
        monty.same(f"string.{name}")
    for expression in ("string.punctuation", "string.printable", "string.whitespace", "string.capwords(' a  bC d ')"):
        monty.same(expression)
    monty.same("string.capwords('a-b c', '-')")


@often
@given(text=words, width=st.integers(1, 14), lead=st.sampled_from(["", "> ", "   "]))
def test_textwrap(monty: Monty, text: str, width: int, lead: str) -> None:
    # With no room beside the indent CPython's own runs for ever.
    wide = width + len(lead)
    monty.same(f"textwrap.wrap({text!r}, {wide}, initial_indent={lead!r})")
    monty.same(f"textwrap.fill({text!r}, {wide}, subsequent_indent={lead!r})")
    monty.same(f"textwrap.wrap({text!r}, {width}, max_lines=2, placeholder='...')")
    monty.same(f"textwrap.shorten({text!r}, {width})")
    monty.same(f"textwrap.dedent({text!r}), textwrap.indent({text!r}, {lead!r})")


def test_a_hyphen_is_refused_by_name(monty: Monty) -> None:
    assert monty.value("textwrap.wrap('well-known', 5)") == "error"


_STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 5)),
    st.tuples(st.just("readline"), st.integers(-1, 5)),
    st.tuples(st.just("write"), st.sampled_from(["", "x", "ab\n", "é\nz"])),
    st.tuples(st.just("seek"), st.integers(0, 9)),
    st.tuples(st.just("truncate"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["readlines", "tell", "getvalue", "__iter__"])),
)


@often
@given(text=st.sampled_from(["", "a\nb", "one\ntwo\n\nfour", "\n"]), steps=st.lists(_STEPS, max_size=6))
def test_string_io(monty: Monty, text: str, steps: list[Any]) -> None:
    calls = [f"b.{name}({', '.join(map(repr, args))})" for name, *args in steps if name != "__iter__"]
    lines = ["[l for l in b]" for name, *_ in steps if name == "__iter__"]
    monty.same(f"(lambda b: [{', '.join([*calls, *lines, 'b.getvalue()', 'b.tell()'])}])(io.StringIO({text!r}))")


def _patterns() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(
        [
            "a",
            "b",
            ".",
            r"\w",
            r"\d",
            r"\s",
            r"\W",
            r"\S",
            "[ab]",
            "[^a]",
            r"[\w-]",
            "é",
            r"\.",
            "^",
            "$",
            r"\b",
            r"\Z",
            "x",
        ]
    )
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.builds("{}{}".format, inner, inner),
            st.builds("({})".format, inner),
            st.builds("(?:{}|{})".format, inner, inner),
            st.builds("(?:{}){}".format, inner, st.sampled_from(["+", "*", "?", "{2}", "{1,2}", "+?", "*?"])),
            st.builds("(?={})".format, inner),
            st.builds("(?!{})".format, inner),
        ),
        max_leaves=6,
    )


@settings(max_examples=200, deadline=None)
@given(pattern=_patterns(), text=st.text(st.sampled_from("abx .é1\n\u0301½\x1c"), max_size=9))
def test_patterns_match_as_pythons_do_or_are_refused(monty: Monty, pattern: str, text: str) -> None:
    compared: list[Callable[[str, str], str]] = [
        lambda p, t: f"(lambda m: m and (m.group(), m.span(), m.groups()))(re.search({p}, {t}))",
        lambda p, t: f"bool(re.match({p}, {t})), bool(re.fullmatch({p}, {t}))",
        lambda p, t: f"re.findall({p}, {t})",
        lambda p, t: f"re.split({p}, {t})",
        lambda p, t: f"re.sub({p}, '-', {t}), re.subn({p}, lambda m: m.group() * 2, {t})",
        lambda p, t: f"[m.span() for m in re.finditer({p}, {t}, re.M)]",
    ]
    for compare in compared:
        expression = compare(repr(pattern), repr(text))
        here = monty.value(expression)
        assert here in ("error", repr(eval(expression, {"re": re}))), expression


def test_ordinary_patterns_are_not_refused(monty: Monty) -> None:
    for pattern in (
        r"^\d{4}-\d\d$",
        r"\b\w+\b",
        r"(?P<k>\w+)=(?P<v>[^;]*);",
        r"\s*,\s*",
        r"[A-Z][a-z]+",
        r"(?<!\d)\d{3}",
    ):
        monty.same(f"re.findall({pattern!r}, 'Ab 2026-01-02; k=v; x , y 123')")


def test_every_shim_can_be_imported_by_any_of_its_names() -> None:
    for module in shim_loader.MODULES:
        for name in shim_loader.names(module):
            source = f"from {module} import (\n    {name} as mine,\n)\nimport {module} as m\nmine is m.{name}"
            assert not dialect.problems(source), (module, name)
            prepared = dialect.prepare(source)
            assert prepared.fed.count("\n") == source.count("\n")
