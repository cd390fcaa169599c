"""The prompt of a map: filled in by columns, checked before a row is asked, never evaluated."""

from __future__ import annotations

import time
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import SpecError, UserError
from agentkit.map.prompt_template import PromptTemplate, outer_expressions
from agentkit.map.rows import open_table
from agentkit.notebook import template as notebook

FRAME = pandas.DataFrame(
    {"name": ["Lamp", "Chair"], "price": [9.5, None], "unit price": [1, 2], "index": [7, 8]}, index=["a", "b"]
)


def render(source: str, rows: Any = FRAME, **options: Any) -> list[str]:
    table = open_table(rows)
    template = PromptTemplate.parse(source, table, **options)
    return [text for piece in table.pieces(size=2, columns=template.columns) for text in template.render(piece)]


def test_columns_rows_and_labels_are_filled_in() -> None:
    assert render("{{ row.name }} {{row.price}}") == ["Lamp 9.5", "Chair"]
    assert render('{{ index }}: {{ row["unit price"] }} {{{{ }} {{ row.index }}') == ["a: 1 {{ }} 7", "b: 2 {{ }} 8"]
    assert render("\n {{ row }}\n") == [
        "name: Lamp\nprice: 9.5\nunit price: 1\nindex: 7",
        "name: Chair\nprice: \nunit price: 2\nindex: 8",
    ]
    assert render("{{ row }}!", ["x", None]) == ["x!", "!"]
    assert render("{{ index }}", pandas.DataFrame({"a": [1]}, index=[("x", 2)])) == ["x, 2"]


def test_paths_lead_into_nested_cells() -> None:
    rows = [
        {"meta": {"brand": {"name": "Ikea"}, "tags": ["wood", "new"], "get": 1}},
        {"meta": {"brand": None, "tags": []}},
        {"meta": None},
    ]
    assert render("{{ row.meta.brand.name }}/{{ row['meta'].tags[-1] }}/{{ row.meta.get }}", rows) == [
        "Ikea/new/1",
        "//",
        "//",
    ]
    assert render("{{ row.meta.tags }} {{ row.meta.brand }}", rows)[0] == '["wood", "new"] {"name": "Ikea"}'
    assert render("{{ row[1] }}", [["a", "ü"], ["c"]]) == ["ü", ""]


def test_a_template_says_which_columns_it_reads_and_whether_it_is_the_same_for_all() -> None:
    table = open_table(FRAME)
    read = {
        "Say hello": ((), True),
        "{{ index }}": ((), False),
        "{{ row.price }} {{ row.name }}": (("name", "price"), False),
        "{{ row }}": (table.columns, False),
    }
    for source, (columns, constant) in read.items():
        template = PromptTemplate.parse(source, table)
        assert (template.columns, template.constant) == (columns, constant)


def test_other_expressions_are_given_by_who_calls() -> None:
    source = "From {{ start }} to {{ start + 1 }}: {{ row.name }} {{ {'a': 1}['a'] }} {{ start }} {{ index }}"
    assert outer_expressions(source) == ("start", "start + 1", "{'a': 1}['a']")
    values = {"start": "2025 {{ row.price }}", "start + 1": "2026", "{'a': 1}['a']": "1"}
    # What a value says is text: it is not filled in again.
    assert render(source, values=values)[0] == "From 2025 {{ row.price }} to 2026: Lamp 1 2025 {{ row.price }} a"


REFUSED: dict[str, str] = {
    "Say\n{{ row.nmae }}": r"line 2: \{\{ row\.nmae \}\}: rows has no column nmae \(did you mean name\?\); it has ",
    "{{ row['prize'] }}": r"line 1: .* has no column prize \(did you mean price\?\)",
    "{{ row.name.upper() }}": "line 1: .* only row, its columns .* can stand in the prompt of a map",
    "{{ name }}": r"can stand in the prompt of a map \(did you mean row\.name\?\); compute anything else",
    "{{ row[row.name] }}": "can stand in the prompt of a map",
    "{{ row[True] }}": "can stand in the prompt of a map",
    "{{ row[0:2] }}": "can stand in the prompt of a map",
    "{{ row[0] }}": "rows has no column 0",
    "{{ index.x }}": "can stand in the prompt of a map",
    "{{ __import__('os').system('touch /tmp/evaluated') }}": "can stand in the prompt of a map",
    "{{ row.name": r"line 1: \{\{ row\.name is never closed",
    "{{ }}": "is empty",
    "{{ row.class }}": r'is not a Python expression .*: write row\["class"\]',
    "{{ row.name.x }}": r"line 1: .*: \.x is asked of str 'Lamp' in row 0 of rows: only lists and dicts have parts",
    " \n": "the prompt is empty",
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_cannot_be_filled_in_is_refused_before_a_row_is_asked(source: str) -> None:
    with pytest.raises(UserError, match=REFUSED[source]) as refused:
        PromptTemplate.parse(source, open_table(FRAME))
    assert "\n" not in str(refused.value)


def test_a_path_that_no_row_has_is_a_typo() -> None:
    rows = [{"meta": {"brand": "x"}}, {"meta": {"colour": "red"}}]
    with pytest.raises(SpecError, match=r"no row of rows has color there \(did you mean colour\?\); they have"):
        PromptTemplate.parse("{{ row.meta.color }}", open_table(rows))
    with pytest.raises(SpecError, match=r"are values without columns: write \{\{ row \}\}"):
        PromptTemplate.parse("{{ row.name }}", open_table(["a"]))


def test_a_long_cell_is_cut_as_the_notebook_cuts_it_and_said_once() -> None:
    rows = [{"page": "x" * 20_001}, {"page": "short"}, {"page": "y" * 30_000}]
    table = open_table(rows)
    template = PromptTemplate.parse("{{ row.page }}", table)
    texts = [text for piece in table.pieces() for text in template.render(piece)]
    assert texts == [notebook.fill("{{ page }}", row) for row in rows]
    assert template.notes == ("only the first 20,000 characters of longer cells are sent",)
    assert PromptTemplate.parse("{{ row.page }}", table).notes == ()


def test_half_a_pair_is_written_out() -> None:
    [text] = render("{{ row.a }} ü", [{"a": "\ud800"}])
    assert text == "\\ud800 ü"
    text.encode()


literal = st.text(st.characters(exclude_characters="{}", codec="utf-8"), max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(literal, st.sampled_from(["a", "b", "{{"])), max_size=5),
    st.lists(st.tuples(st.text(max_size=6), st.integers() | st.booleans()), min_size=1, max_size=4),
)
def test_a_row_reads_as_the_notebook_would_send_it(parts: list[tuple[str, str]], rows: list[tuple[str, Any]]) -> None:
    """One syntax: the same text in a cell of its own gives the same prompt, so that the two share an answer."""
    records = [{"a": a, "b": b} for a, b in rows]
    source = "Q: " + "".join(text + ("{{{{" if hole == "{{" else f"{{{{ row.{hole} }}}}") for text, hole in parts)
    plain = source.replace("row.a", "a").replace("row.b", "b")
    assert render(source, records) == [notebook.fill(plain, record) for record in records]


@pytest.mark.alone
def test_a_quarter_of_a_million_prompts_take_little_more_than_the_plain_loop() -> None:
    count = 250_000
    frame = pandas.DataFrame({"name": [f"product {n}" for n in range(count)], "price": [n / 8 for n in range(count)]})
    table = open_table(frame)
    template = PromptTemplate.parse("Classify {{ row.name }} at {{ row.price }} ({{ index }}).", table)
    pieces = list(table.pieces())
    ratios = []
    for _ in range(3):
        begun = time.process_time()
        texts = [text for piece in pieces for text in template.render(piece)]
        rendered = time.process_time() - begun
        begun = time.process_time()
        plain = [
            f"Classify {name} at {price} ({label})."
            for piece in pieces
            for name, price, label in zip(piece.columns["name"], piece.columns["price"], piece.index, strict=True)
        ]
        ratios.append(rendered / (time.process_time() - begun))
        assert texts == plain
    assert min(ratios) < 3, ratios
