"""What a text says to somebody who knows a few hundred words: roots, names, numbers, superlatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

Sense = Literal["count", "above", "below", "year", "plain"]
Direction = Literal["most", "least"]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number in a text and what its neighbours say it is for."""

    value: int | float
    sense: Sense


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """A superlative: the word as written, the root it is made of, and the end it points to."""

    word: str
    root: str
    direction: Direction


_KIN = """
mean average avg typical
total sum add plus altogether
multiply product
subtract minus difference
divide divided quotient
count many number frequency tally howmany
describe summary summarize summarise overview statistic stat profile
column field variable
head sample preview
plot chart graph draw figure histogram
correlate correlation relation related relationship
search look find lookup query
temp temperature warm hot heat cold cool
rain rainy precipitation precip wet dry rainfall
wind windy
sun sunny
snow snowy
weather forecast climate
price cost expensive cheap
time hour clock now
day daily today
month monthly
year yearly annual annually
week weekly
top highest maximum max peak
bottom lowest minimum min
send mail email
delete remove drop erase
save store write
"""

_LEAST = set("low small few least little cold cool short slow dry cheap calm weak light poor near young early".split())
_MOST_WORDS = frozenset("most max maximum top peak best highest".split())
_LEAST_WORDS = frozenset("least min minimum bottom worst lowest".split())
_NOT_SUPERLATIVE = frozenset(
    "test request interest forest west east rest nest guest harvest invest suggest quest chest honest modest latest "
    "contest protest digest manifest invested est arrest newest oldest tempest priest breast".split()
)
_LOWER_THAN = frozenset("less fewer lower smaller colder cooler cheaper shorter under slower".split())
_ABOVE = frozenset("above over exceeding exceed exceeds beyond".split()) | {">", ">=", "≥"}
_BELOW = frozenset("below under".split()) | {"<", "<=", "≤"}
_COUNTING_BEFORE = frozenset("top first last best worst bottom head limit highest lowest".split())
_COUNTING_AFTER = frozenset("rows row items item results examples samples lines records entries".split())
_NUMBER_WORDS = dict(
    zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True)
)
_SMALL = frozenset(
    "a an the of for in on and or to is was were are be been do does did what which who how with from at as this that "
    "it its their there here i me my we our you your please can could would should will shall all any some one each "
    "every by per value values given return returns result results use using used show tell give get got let make if "
    "not no than then so also only more about into out up".split()
)
_GROUPING = frozenset("by per each every which what".split())
_ABOUT = frozenset("in of for at about".split())
_NEGATIONS = frozenset("not never without don't dont no".split())

_QUOTED = re.compile(r"`([^`\n]+)`|\"([^\"\n]+)\"|“([^”\n]+)”|(?<!\w)'([^'\n]+)'(?!\w)|‘([^’\n]+)’")
_NAME = re.compile(
    r"https?://[^\s,;]+[\w/]|[\w.+-]+@[\w-]+\.[\w.]+\w|\d{4}-\d\d(?:-\d\d)?(?:[T ]\d\d:\d\d(?::\d\d)?)?"
    r"|(?:\.{0,2}/)?[\w-]+(?:/[\w.-]+)+|\b\w+\.(?:csv|json|txt|md|py|xlsx?|parquet|pdf|png|html)\b|\b[^\W\d]\w*_\w+\b"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|>=|<=|[<>≥≤]|-?\d[\d,]*(?:\.\d+)?|[.;:!?,]")
_JOINT = re.compile(r"(?<=[.!?;])\s+|\n+|,?\s+(?:and|then)\s+|,\s+")
_OPERATION = re.compile(r"\d\s*(\+|-|\*|×|/|÷|times)\s*\d")
_PROPER = re.compile(r"\b[A-ZÀ-Þ][\w'’-]*(?: [A-ZÀ-Þ][\w'’-]*)*")
_NOT_PROPER = frozenset("i i'm english markdown json ok".split())


def _strip(word: str) -> str:
    """A word without its usual endings; crude, but the same crude for both sides of a comparison."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    for ending, instead, least in (("ies", "y", 5), ("sses", "ss", 6), ("ing", "", 6), ("ed", "", 5), ("ly", "", 5)):
        if word.endswith(ending) and len(word) >= least:
            word = word[: -len(ending)] + instead
            break
    else:
        if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


_GROUP = {_strip(word): _strip(line.split()[0]) for line in _KIN.split("\n") if line for word in line.split()}


def root(word: str) -> str:
    """What a word is compared by: its stem, or the first word of its family."""
    stem = _strip(word)
    return _GROUP.get(stem, stem)


def parts(name: str) -> tuple[str, ...]:
    """The words in an identifier: `mean_by_month` and `meanByMonth` have three."""
    return tuple(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-zß-ÿ]+|\d+", name))


def roots(text: str) -> frozenset[str]:
    """The roots of the words in a text that mean something."""
    return frozenset(root(word) for word in parts(text) if word not in _SMALL)


def extreme(word: str) -> Extreme | None:
    """`warmest` is the most of `warm`; `interest` is no superlative."""
    low = word.lower()
    if low in _MOST_WORDS or low in _LEAST_WORDS:
        return Extreme(word=low, root=root(low), direction="most" if low in _MOST_WORDS else "least")
    if not low.endswith("est") or len(low) < 6 or low in _NOT_SUPERLATIVE:
        return None
    base = low[:-3]
    base = base[:-1] + "y" if base.endswith("i") else base
    stem = _strip(base)
    return Extreme(word=low, root=_GROUP.get(stem, stem), direction="least" if stem in _LEAST_STEMS else "most")


_OPERATORS = {
    sign: root(name)
    for signs, name in (("+", "add"), ("-", "subtract"), (("*", "×", "times"), "multiply"), (("/", "÷"), "divide"))
    for sign in signs
}
_LEAST_STEMS = frozenset(_strip(word) for word in _LEAST)


@dataclass(frozen=True)
class Prompt:
    """What a prompt says."""

    text: str

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Lower-case words, numbers and marks in order; what is quoted or is a name says what, not how, and is out."""
        return tuple(word.lower() for word in _WORD.findall(self._plain))

    @cached_property
    def roots(self) -> frozenset[str]:
        meant = {root(word) for word in self.words if _means(word)}
        for first, second in pairwise(self.words):
            if (first, second) == ("how", "many"):
                meant.add("count")
        meant |= {_OPERATORS[match[1]] for match in _OPERATION.finditer(self._plain)}
        return frozenset(meant | {found.root for found in self.extremes})

    @cached_property
    def extremes(self) -> tuple[Extreme, ...]:
        return tuple(found for word in self.words if (found := extreme(word)))

    @cached_property
    def quoted(self) -> tuple[str, ...]:
        return _unique(next(group for group in match.groups() if group) for match in _QUOTED.finditer(self.text))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Identifiers, addresses, paths and dates that stand in the text without quotes."""
        return _unique(match.group() for match in _NAME.finditer(self._unquoted))

    @cached_property
    def proper(self) -> tuple[str, ...]:
        """Capitalised names inside a sentence: Paris, New York."""
        plain = self._plain
        return _unique(match.group() for match in _PROPER.finditer(plain) if _is_proper(plain, match))

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        return tuple(_numbers(self.words))

    @cached_property
    def grouped(self) -> frozenset[str]:
        """Roots of what results are asked by: `by month`, `each year`, `which region`."""
        words = [word for word in self.words if word not in {"the", "of", "its"}]
        return frozenset(
            root(second) for first, second in pairwise(words) if first in _GROUPING and second not in _SMALL
        )

    @cached_property
    def clauses(self) -> tuple[str, ...]:
        """The sentences and what `and` or a comma joins in them."""
        return tuple(part for part in _JOINT.split(self.text) if part.strip())

    def last_word_besides(self, known: frozenset[str]) -> str | None:
        """What a short question is about: the word after its last `in`, `of` or `for`, or else its last other word."""
        about = [second for first, second in pairwise(self.words) if first in _ABOUT]
        return next(
            (word for word in reversed((*self.words, *about)) if _means(word) and root(word) not in known), None
        )

    @cached_property
    def negated(self) -> frozenset[str]:
        """Roots that follow a `not` or `without` closely: what must not be done."""
        spans = (self.words[i + 1 : i + 4] for i, word in enumerate(self.words) if word in _NEGATIONS)
        return frozenset(root(word) for span in spans for word in span)

    def after(self, earlier: Prompt) -> Prompt:
        """This prompt read as the continuation of an earlier one; names given now replace those given then."""
        renamed = self.quoted or self.names or self.proper
        return Prompt(f"{self.text}\n{earlier._plain if renamed else earlier.text}")

    @cached_property
    def _unquoted(self) -> str:
        return _QUOTED.sub(lambda match: " " * len(match.group()), self.text)

    @cached_property
    def _plain(self) -> str:
        return _NAME.sub(lambda match: " " * len(match.group()), self._unquoted)


def _is_proper(plain: str, match: re.Match[str]) -> bool:
    before = plain[: match.start()].rstrip()
    starts_sentence = not before or before[-1] in ".!?:" or plain[: match.start()].endswith("\n")
    return not starts_sentence and match.group().lower() not in _NOT_PROPER


def _means(word: str) -> bool:
    return word[0].isalpha() and word not in _SMALL


def _unique(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))


def _numbers(words: tuple[str, ...]) -> Iterator[Number]:
    for place, word in enumerate(words):
        if word in _NUMBER_WORDS:
            yield Number(value=_NUMBER_WORDS[word], sense=_sense(words, place, _NUMBER_WORDS[word]))
        elif word.lstrip("-")[0].isdecimal():
            text = word.replace(",", "")
            value = float(text) if "." in text else int(text)
            yield Number(value=value, sense=_sense(words, place, value))


def _sense(words: tuple[str, ...], place: int, value: int | float) -> Sense:
    before = words[max(0, place - 3) : place]
    last = before[-1] if before else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    if last in _ABOVE or before[-2:] == ("at", "least"):
        return "above"
    if last in _BELOW or before[-2:] in {("at", "most"), ("up", "to")}:
        return "below"
    if last == "than":
        return "below" if _LOWER_THAN & set(before) else "above"
    if last in _COUNTING_BEFORE or after in _COUNTING_AFTER or (extreme(after) and isinstance(value, int)):
        return "count"
    if isinstance(value, int) and 1900 <= value <= 2100:
        return "year"
    return "plain"
