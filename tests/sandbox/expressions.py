"""Programs of one line or a few for the differential run: some thousand, most of them made from operations x values."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "base64 binascii bisect collections copy csv dataclasses datetime decimal functools hashlib heapq io itertools "
    "json math operator os pathlib posixpath re statistics string textwrap tomllib unicodedata"
)
IMPORTS = f"""import {", ".join(MODULES.split())}
from datetime import datetime as DT, date, timedelta, timezone, time as TM
from decimal import Decimal as D
from collections import Counter, defaultdict, deque, namedtuple
"""
_FOLDER = Path(__file__).with_name("differential")


def programs() -> list[str]:
    """Each ends with the expression that is compared."""
    made = [*_text(), *_floats(), *_wholes(), *_math(), *_patterns(), *_json(), *_dates(), *_times()]
    read = [line for name in ("builtins", "modules", "statements") for line in _lines(name)]
    return list(dict.fromkeys([*made, *read]))


def _lines(name: str) -> Iterator[str]:
    """One program a line; a ⏎ is an end of line in it."""
    for line in (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").split("\n"):
        if line:
            yield line.replace("  ⏎ ", "\n")


def _text() -> Iterator[str]:
    texts = ["", "a", "Hello World", "  pad\t", "ÀÉß", "a,b,,c", "line1\nline2\r\n", "ǆ İ ﬁ", "tab\there", "٣", "½"]
    methods = (
        "upper() lower() title() capitalize() swapcase() casefold() strip() split() split(',') splitlines() "
        "splitlines(True) isdigit() isdecimal() isnumeric() isalpha() isalnum() isspace() isupper() islower() "
        "istitle() isidentifier() encode() center(9,'*') ljust(7) zfill(6) find('a') "
        "count('') partition('X') rsplit(None,1) "
        "expandtabs(4) replace('','-') isprintable() isascii()"
    )
    for text in texts:
        yield from (f"{text!r}.{method}" for method in methods.split(" "))
        yield from (f"len({text!r})", f"{text!r}[::-1]", f"{text!r}[-3:]", f"list({text!r})")


def _floats() -> Iterator[str]:
    values = "0.0 -0.0 1.5 2.675 1e16 1e22 1e-5 123456789.123456789 0.30000000000000004 1e300 5e-324 2.5 -7.25"
    formats = ".2f|.0f|e|.3e|g|.10g|%|.1%|,|010.3f|+.2f|>12|<12.4|^14.2f|#.3g|_|n|F|G|.17g".split("|")
    for value in [*values.split(), "float('inf')", "float('nan')"]:
        yield from (f"format({value}, {format!r})" for format in formats)
        yield from (f"{kind}({value})" for kind in ("str", "int", "bool", "abs", "round"))
        yield from (f"round({value}, {digits})" for digits in (0, 1, 2, 3, -1))
        yield from (f"'%.2f %s %r %e %g' % ({value}, {value}, {value}, {value}, {value})", f"divmod({value}, 3)")
        yield from (f"{value}{operation}" for operation in ("//2", "%3", "**2", "/7"))


def _wholes() -> Iterator[str]:
    formats = "d b x X o #x #b , _ 08d +d e .2f c >10 n % g".split()
    operations = "//3 %3 //-3 %-3 **3 <<3 >>2 &255 |3 ^5 /3 /7 **-1 **0.5".split()
    for value in (0, 1, -1, 7, 255, 10**18, -(10**25), 2**64):
        yield from (f"format({value}, {format!r})" for format in formats)
        yield from (f"({value}){operation}" for operation in operations)
        yield from (f"{kind}({value})" for kind in ("hex", "bin", "oct", "float", "str", "bool"))
        yield from (f"divmod({value}, 7)", f"round({value}, -1)", f"~({value})", f"pow({value}, 3, 7)")
    for top, bottom in [(10**40 + 1, 10**39 + 7), (2**53 + 1, 1), (10**22, 7), (2**1000, 2**999 + 1), (1, 10**30)]:
        yield from (
            f"{top} / {bottom}",
            f"{top} * 1.0",
            f"float({top})",
            f"{top} // {bottom}",
            f"{top} == float({top})",
        )


def _math() -> Iterator[str]:
    functions = (
        "sqrt exp log log2 log10 log1p expm1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh floor ceil "
        "trunc fabs degrees radians erf erfc gamma lgamma cbrt exp2 isnan isinf isfinite modf frexp ulp"
    )
    for function in functions.split():
        yield from (f"math.{function}({value})" for value in ("0.5", "2", "-1.5", "0.0", "10", "1e10"))


def _patterns() -> Iterator[str]:
    patterns = [
        *("a", "b+", "x*", r"\d+", r"(\w)(\w)", "^a", "c$", r"\s*,\s*", r"(?P<n>\w+)", "a|ab", "[^a-c]", r"\bfoo\b"),
        *(".", "", "(a)?b", "(?i)ABC", "(?<=a)b", "a(?=b)", r"(\w)\1", "[A-Z]{2,}", r"\W+", ".*", "a*?", "(?s).+"),
        *(r"(?m)^\w", "é", r"\S+@\S+", "$", r"\Aab\Z", r"[a&&b]", "[~~]", r"\<a", "[[a]b]", "[[:alpha:]]", "a{,2}"),
        *(
            "(?:a|b)*",
            "a{2",
            "[]a]",
            r"[\w-]",
            r"\s",
            r"[\s\S]",
            "(?>a+)b",
            "a++",
            r"\h",
            r"\K",
            r"\G",
            "(?<n>a)",
            "[a--b]",
        ),
    ]
    texts = ["", "aab b", "a, b ,c", "line1\nline2\n", "x12éy@b.c [a&~]", "ab\n\x1c"]
    for pattern in patterns:
        for text in texts:
            yield f"re.findall({pattern!r}, {text!r})"
            yield f"re.split({pattern!r}, {text!r})"
            yield f"re.sub({pattern!r}, '-', {text!r})"
            yield f"(lambda m: m and (m.group(), m.span(), m.groups()))(re.search({pattern!r}, {text!r}))"
            yield f"bool(re.match({pattern!r}, {text!r})), bool(re.fullmatch({pattern!r}, {text!r}))"


def _json() -> Iterator[str]:
    values = (
        "1|1.0|'a'|'é\\n\\u2028\"/'|None|True|[1,[2]]|{'b':1,'a':[True,None]}|{1:2}|{None:1,True:2,1.5:3}|1e16|1e22|0.1|"
        "float('inf')|float('nan')|(1,2)|[]|{}|10**30|'\\U0001F600'|'\\x7f\\x00'"
    )
    for value in values.split("|"):
        yield f"json.dumps({value})"
        yield from (
            f"json.dumps({value}, {options})"
            for options in ("indent=2", "ensure_ascii=False", "separators=(',', ':')", "indent=2, sort_keys=True")
        )


_FORMATS = (
    "%Y-%m-%d|%Y-%m-%d %H:%M:%S|%d/%m/%Y|%d/%m/%y|%Y-%m-%dT%H:%M:%S|%b %d %Y|%B %d, %Y|%Y%m%d|%H:%M|%I:%M %p|"
    "%Y-%m-%d %H|%d %b %Y %H:%M|%a, %d %b %Y|%Y-%m-%d %H:%M:%S.%f|%Y-%m-%dT%H:%M:%S%z|%j %Y|%Y|%b %Y|"
    "%m/%d/%Y %I:%M:%S %p|%m/%d/%y %I%p|%y%m%d|%A|%Y-%m|%H|%U %Y|%G-W%V-%u|%d.%m.%Y|%Y-%m-%d %M|%Y-%m-%d %S|"
    "%Y-%m-%d %I|%Y-%m-%d %p|%Y-%m-%d %H:%S|%Y-%m-%d %f|%d|%c|%x|%X|%e|%-d|%D|%T|%F|%y|%C|%%|%Y-%m-%d %Z"
).split("|")


def _dates() -> Iterator[str]:
    moments = [datetime.datetime(2026, 1, 2, 17, 5, 9, 123456), datetime.datetime(1999, 12, 31)]
    methods = (
        "isoformat() isoformat('T','minutes') weekday() isoweekday() date() time() replace(year=2000) toordinal() "
        "isocalendar() ctime() year microsecond tzinfo"
    )
    for moment in moments:
        day, clock = f"{moment.year},{moment.month},{moment.day}", f"{moment.hour},{moment.minute},{moment.second}"
        made = f"DT({day},{clock},{moment.microsecond})"
        yield from (f"{made}.{method}" for method in methods.split())
        yield from (
            f"str({made})",
            f"{made} + timedelta(days=30)",
            f"{made} - timedelta(hours=5)",
            f"{made}.date() - date(2020,1,1)",
        )
        yield from (f"({made} - DT(2020,1,1)).total_seconds()", f"f'{{{made}:%Y/%m}}'", f"{made} < DT(2020,1,1)")
        for format in _FORMATS:
            yield f"{made}.strftime({format!r})"
            yield f"DT.strptime({moment.strftime(format)!r}, {format!r})"
            # The same, where the format is only known when it runs.
            yield f"(lambda f: DT.strptime({moment.strftime(format)!r}, f))({format!r})"


def _times() -> Iterator[str]:
    texts = (
        "2026-01-02|2026-01-02T03:04|2026-01-02 03:04:05|2026-01-02T03:04:05.123|2026-01-02T03:04:05+02:00|20260102|"
        "2026-W01-1|2026-01-02T03|x|2026-13-01|2026-1-2|20260102T030405|2026-02-30"
    )
    for text in texts.split("|"):
        yield from (f"DT.fromisoformat({text!r})", f"date.fromisoformat({text!r})")
