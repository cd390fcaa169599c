"""A table cut into shards and joined again: every row once, under its label, as the whole gives it."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel
from pydantic_ai import PromptedOutput

import agentkit
from agentkit import Spec
from agentkit.errors import UserError
from agentkit.map.frame import without_run
from agentkit.map.prompt_template import PromptTemplate
from agentkit.map.rows import open_table
from agentkit.map.shards import cut, join
from agentkit.testing import ScriptedModel


class Seen(BaseModel):
    text: str
    kind: Literal["even", "odd"]
    size: int | None


def answer(messages: Any) -> str:
    text = str(messages[0].parts[-1].content)
    return Seen(text=text, kind="even" if len(text) % 2 else "odd", size=len(text)).model_dump_json()


TITLES = [f"t{number}" for number in range(7)]
TABLES = {
    "range": pd.DataFrame({"title": TITLES}),
    "labels": pd.DataFrame({"title": TITLES}, index=pd.Index([f"k{n}" for n in range(7)], name="sku")),
    "dates": pd.DataFrame({"title": TITLES}, index=pd.date_range("2026-01-01", periods=7, tz="UTC")),
    "levels": pd.DataFrame(
        {"title": TITLES}, index=pd.MultiIndex.from_product([["a"], range(7)], names=["letter", "n"])
    ),
    "records": [{"title": title} for title in TITLES],
}


def frame_of(rows: object, prompt: str, folder: Path) -> pd.DataFrame:
    model = ScriptedModel.by(answer, model_name="brain")
    with agentkit.session(folder=folder):
        agent = agentkit.build(Spec.parse("You see."), name="a", model=model, output=PromptedOutput(Seen))
        return asyncio.run(agentkit.map(agent, rows, prompt)).frame


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_shards_joined_are_the_frame_of_the_whole(tmp_path: Path, table: str, count: int) -> None:
    rows, prompt = TABLES[table], "{{ index }}: {{ row.title }}"
    whole = frame_of(rows, prompt, tmp_path)
    shards = [pickle.loads(pickle.dumps(shard)) for shard in cut(open_table(rows), count)]
    lengths = [len(shard) for shard in shards]
    assert len(shards) == min(count, 7) and sum(lengths) == 7 and max(lengths) - min(lengths) <= 1
    assert [shard.start for shard in shards] == [sum(lengths[:place]) for place in range(len(lengths))]
    joined = join([frame_of(shard, prompt, tmp_path) for shard in shards])
    pd.testing.assert_frame_equal(without_run(joined), without_run(whole), check_index_type="exact")


def test_a_file_and_a_list_of_values_are_cut_too(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.write_text("sku,title\n007,a\n,b\n010,c\n", encoding="utf-8")
    first, second = cut(open_table(file), 2)
    assert (first.columns, second.columns) == (
        {"sku": ["007"], "title": ["a"]},
        {"sku": ["", "010"], "title": ["b", "c"]},
    )
    values = cut(open_table(["a", "b", "c"]), 2)
    joined = join([frame_of(shard, "{{ index }} {{ row }}", tmp_path) for shard in values])
    assert list(joined["text"]) == ["0 a", "1 b", "2 c"]


def test_a_key_is_checked_for_the_rows_of_the_whole() -> None:
    table = open_table([{"sku": "a"}, {"sku": "b"}, {"sku": "a"}])
    with pytest.raises(UserError, match="key=sku: 1 value stands in more than one row: 'a' in rows 0, 2"):
        cut(table, 3, key="sku")
    with pytest.raises(UserError, match="0 shards: a number of shards, 1 or more"):
        cut(table, 0)


def test_a_value_of_a_prompt_is_text() -> None:
    template = PromptTemplate.parse("{{ shop }}: {{ row }}", open_table(["a"]), values={"shop": "the {{ row }} shop"})
    assert template.render(next(open_table(["a"]).pieces())) == ["the {{ row }} shop: a"]
    with pytest.raises(UserError, match=r"\{\{ shop \}\} is no"):
        PromptTemplate.parse("{{ shop }}: {{ row }}", open_table(["a"]), values={"shop": 3})  # type: ignore[dict-item]
