"""The prompt of a map."""

from __future__ import annotations

import pandas
import pytest

from agentkit.errors import SpecError
from agentkit.map.prompt_template import PromptTemplate, outer_expressions
from agentkit.map.rows import open_table

TABLE = open_table(
    pandas.DataFrame({"name": ["Lamp", "Chair"], "price": [9.5, None], "unit price": [1, 2]}, index=["a", "b"])
)


def render(source: str) -> list[str]:
    return PromptTemplate.parse(source, TABLE).render(next(TABLE.pieces()))


def test_columns_rows_and_labels_are_filled_in() -> None:
    assert render("{{ row.name }} {{ row.price }}") == ["Lamp 9.5", "Chair"]
    assert render('{{ index }}: {{ row["unit price"] }} {{{{ }}') == ["a: 1 {{ }}", "b: 2 {{ }}"]
    assert render("{{ row }}")[0] == "name: Lamp\nprice: 9.5\nunit price: 1"


def test_an_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"^line 2: \{\{ row.nmae \}\}: rows has no column nmae \(did you"):
        render("Say\n{{ row.nmae }}")


def test_nothing_is_evaluated() -> None:
    with pytest.raises(SpecError, match="can stand in the prompt of a map"):
        render("{{ __import__('os').system('true') }}")
    assert outer_expressions("{{ start }} {{ row.name }} {{ start }}") == ("start",)
