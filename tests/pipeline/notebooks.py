"""Small notebooks, one for each way in which a program could be another one than the notebook it came from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

TOOL = '''
import agentkit

prices = {"tea": 3.0, "milk": 1.5, "bread": 2.0}

@agentkit.tool(effects="none")
def price(item: str) -> float:
    """The price of an item."""
    return prices[item]
'''
CLERK = "%%agent build clerk --tools price\nYou answer with prices. Use the tool for every number."


@dataclass(frozen=True, kw_only=True)
class Sample:
    """`refused`: the words that the refusal must have, for a notebook that must not be exported.

    `has` and `has_not` are pieces of the program for both targets; `results` are what it gives.
    """

    cells: tuple[str, ...]
    tags: dict[int, str] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    has_not: tuple[str, ...] = ()
    results: tuple[str, ...] | None = None
    setup: bool = True

    @property
    def every_cell(self) -> tuple[str, ...]:
        first = ("%load_ext agentkit", TOOL, CLERK) if self.setup else ("%load_ext agentkit",)
        return (*first, *self.cells)

    @property
    def first(self) -> int:
        return 4 if self.setup else 2


def write(sample: Sample, path: Path) -> None:
    """The notebook's file; tags and counts are given by the place of a cell among the sample's own."""
    cells = []
    offset = sample.first
    for number, source in enumerate(sample.every_cell, 1):
        tag = sample.tags.get(number - offset)
        count = sample.counts.get(number - offset, number)
        cells.append(
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": {"tags": [tag] if tag else []},
                "source": source,
                "outputs": [],
                "execution_count": count,
            }
        )
    kept = {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "language": "python"}}}
    path.write_text(json.dumps({**kept, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


def ask(item: str, name: str) -> str:
    return f"%%agent run clerk --as {name}\nWhat is the price of `{item}`?"


SAMPLES: dict[str, Sample] = {
    "one_run": Sample(cells=(ask("tea", "answer"),), results=("answer",), has=("async def find_answer() -> str:",)),
    "unnamed_run": Sample(cells=("%%agent run clerk\nWhat is the price of `milk`?",), results=("answer_4",)),
    "line_run": Sample(cells=("said = %agent run clerk What is the price of `bread`?",), results=("said",)),
    "two_side_by_side": Sample(
        cells=(ask("tea", "one"), ask("milk", "two")),
        results=("one", "two"),
        has=("asyncio.gather(find_one(), find_two())",),
    ),
    "one_after_the_other": Sample(
        cells=(
            ask("tea", "one"),
            "%%agent run clerk --as two\nAnd is `milk` cheaper than: {{ one }}",
        ),
        results=("one", "two"),
        has=("two = await find_two(one)",),
        has_not=("asyncio.gather",),
    ),
    "effects_keep_their_order": Sample(
        cells=(
            '@agentkit.tool(effects="once")\ndef note(text: str) -> str:\n    """Write a note."""\n    return "noted " + text',
            "%%agent build writer --tools note\nYou write notes.",
            '%%agent run writer --as one\nWrite a note with text "first".',
            '%%agent run writer --as two\nWrite a note with text "second".',
        ),
        results=("one", "two"),
        has_not=("asyncio.gather", "cache="),
    ),
    "parameters": Sample(
        cells=(
            'item = "tea"\ntimes: int = 2',
            "%%agent run clerk --as answer\nWhat is the price of `{{ item }}` times {{ times }}?",
        ),
        tags={0: "parameters"},
        has=('async def main(item: str = "tea", times: int = 2) -> str:',),
        results=("answer",),
    ),
    "parameters_by_a_comment": Sample(
        cells=("# parameters\nitem = 'tea'", "%%agent run clerk --as answer\nWhat is the price of `{{ item }}`?"),
        has=('async def main(item: str = "tea") -> str:',),
        results=("answer",),
    ),
    "parameter_read_by_a_tool": Sample(
        cells=(
            "rate = 1.2",
            '@agentkit.tool(effects="none")\ndef taxed(item: str) -> float:\n    """The price with tax."""\n    return prices[item] * rate',
            "%%agent build taxer --tools taxed\nYou answer with taxed prices.",
            "%%agent run taxer --as answer\nWhat is the taxed price of `tea`?",
        ),
        tags={0: "parameters"},
        has=("globals().update(rate=rate)",),
        results=("answer",),
    ),
    "data_read_by_a_tool": Sample(
        cells=(
            "import pandas as pd\n\nframe = pd.DataFrame({'city': ['Oslo', 'Rome'], 'size': [700, 2800]})",
            "frame.loc[0, 'size'] = 709",
            '@agentkit.tool(effects="none")\ndef size(city: str) -> int:\n    """The size of a city in thousands."""\n    return int(frame.set_index("city").loc[city, "size"])',
            "%%agent build mayor --tools size\nYou know cities.",
            "%%agent run mayor --as answer\nWhat is the size of `Oslo`?",
        ),
        results=("answer",),
        has=("frame.loc[0, 'size'] = 709",),
    ),
    "comprehension_scopes": Sample(
        cells=(
            "x = 'tea'\nnames = [x for x in ['milk', 'bread']]\npairs = {x: len(x) for x in names}",
            "%%agent run clerk --as answer\nWhat is the price of `{{ x }}`? Not of {{ names }}.",
        ),
        results=("answer",),
    ),
    "append_in_another_cell": Sample(
        cells=(
            "wanted = []",
            "wanted.append('tea')",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted[0] }}`?",
        ),
        results=("answer",),
        has=("wanted.append('tea')",),
    ),
    "item_set_in_another_cell": Sample(
        cells=(
            "wanted = {}",
            "wanted['a'] = 'milk'",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted['a'] }}`?",
        ),
        results=("answer",),
    ),
    "attribute_set_in_another_cell": Sample(
        cells=(
            "from types import SimpleNamespace\n\nwish = SimpleNamespace(item='tea')",
            "wish.item = 'bread'",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wish.item }}`?",
        ),
        results=("answer",),
        has=("wish.item = 'bread'",),
    ),
    "in_place": Sample(
        cells=(
            "import pandas as pd\n\nwanted = pd.DataFrame({'item': ['tea', None]})",
            "wanted.dropna(inplace=True)",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted.item.iloc[-1] }}`?",
        ),
        results=("answer",),
        has=("wanted.dropna(inplace=True)",),
    ),
    "another_name_for_it": Sample(
        cells=(
            "wanted = []\nsame = wanted",
            "same.append('milk')",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted[0] }}`?",
        ),
        results=("answer",),
        has=("same.append('milk')",),
    ),
    "changed_by_a_function": Sample(
        cells=(
            "wanted = []\n\ndef want(item):\n    wanted.append(item)",
            "want('bread')",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted[0] }}`?",
        ),
        results=("answer",),
        has=("want('bread')",),
    ),
    "a_name_bound_twice": Sample(
        cells=(
            "item = 'tea'",
            "%%agent run clerk --as one\nWhat is the price of `{{ item }}`?",
            "item = 'milk'",
            "%%agent run clerk --as two\nWhat is the price of `{{ item }}`?",
        ),
        results=("one", "two"),
    ),
    "a_global_bound_twice": Sample(
        cells=(
            "discount = 0.5",
            '@agentkit.tool(effects="none")\ndef reduced(item: str) -> float:\n    """The reduced price."""\n    return prices[item] * discount',
            "%%agent build seller --tools reduced\nYou sell.",
            "%%agent run seller --as one\nWhat is the reduced price of `tea`?",
            "discount = 0.25",
            "%%agent run seller --as two\nWhat is the reduced price of `tea`?",
        ),
        results=("one", "two"),
        has=("globals().update(discount=discount)",),
    ),
    "deleted_after_use": Sample(
        cells=(
            "item = 'tea'\nscratch = [1]",
            "%%agent run clerk --as answer\nWhat is the price of `{{ item }}`?",
            "del scratch",
        ),
        results=("answer",),
    ),
    "conversation": Sample(
        cells=(ask("tea", "one"), "%%agent run clerk --continue --as two\nAnd of `milk`?"),
        results=("one", "two"),
        has=("conversation=conversation",),
    ),
    "equal_prompts": Sample(cells=(ask("tea", "one"), ask("tea", "two")), results=("one", "two")),
    "samples_in_a_loop": Sample(
        cells=(
            "said = []\nfor n in range(3):\n    said.append((await clerk.run('What is the price of `tea`?')).output)",
        ),
        results=("said",),
        has=("async def cell_4(", "each_answer = await asyncio.gather(*[each_run(n) for n in each_item])"),
    ),
    "gathered_by_hand": Sample(
        cells=(
            "import asyncio\n\nrunning = [clerk.run(f'What is the price of `{item}`?') for item in prices]\n"
            "said = [done.output for done in await asyncio.gather(*running)]",
        ),
        results=("said",),
    ),
    "a_loop_into_a_dict": Sample(
        cells=("found = {}\nfor item in prices:\n    found[item] = (await clerk.run(f'Price of `{item}`?')).output",),
        results=("found",),
        has=("    found[item] = answer",),
    ),
    "a_loop_that_looks_back": Sample(
        cells=(
            "said = []\nfor item in prices:\n    said.append((await clerk.run(f'Price of `{item}`? {len(said)}')).output)",
        ),
        results=("said",),
        has_not=("asyncio.gather",),
    ),
    "list_of_runs": Sample(
        cells=(
            "said = [(await clerk.run(f'Price of `{item}`?')).output for item in ('tea', 'milk')]",
            "count = len(said)",
        ),
        results=("count",),
        has=("said = await asyncio.gather(*[each_run(item) for item in ('tea', 'milk')])",),
    ),
    "branch": Sample(
        cells=(
            ask("tea", "one"),
            "if '3' in one:\n    more = (await clerk.run('What is the price of `milk`?')).output\nelse:\n    more = 'nothing'",
        ),
        results=("one",),
    ),
    "function_that_asks": Sample(
        cells=(
            "async def asked(item):\n    return (await clerk.run(f'What is the price of `{item}`?')).output",
            "said = await asked('tea')",
        ),
        results=("said",),
        has=("globals().update(clerk=clerk)",),
    ),
    "agent_as_a_tool": Sample(
        cells=(
            "%%agent build boss --tools clerk\nYou delegate.",
            '%%agent run boss --as answer\nAsk the clerk: "What is the price of `tea`?"',
        ),
        results=("answer",),
        has=("tools=[make_clerk()]",),
    ),
    "typed_answer": Sample(
        cells=(
            "from pydantic import BaseModel\n\nclass Offer(BaseModel):\n    item: str\n    price: float",
            "%%agent build offerer --tools price --output Offer\nYou make offers.",
            "%%agent run offerer --as offer\nMake an offer for item `tea`.",
            "total = offer.price * 2",
        ),
        results=("offer", "total"),
        has=("async def find_offer() -> Offer:",),
    ),
    "instructions_filled_in": Sample(
        cells=(
            "house = 'Corner Shop'",
            "%%agent build keeper --tools price\nYou keep the {{ house }}.",
            "%%agent run keeper --as answer\nWhat is the price of `tea`?",
        ),
        results=("answer",),
        has=("agentkit.fill(",),
    ),
    "frame_in_a_prompt": Sample(
        cells=(
            "import pandas as pd\n\nbasket = pd.DataFrame({'item': ['tea', 'milk'], 'count': [2, 1]})",
            "%%agent run clerk --as answer\nHere is the basket:\n\n{{ basket }}\n\nWhat is the price of `tea`?",
        ),
        results=("answer",),
    ),
    "braces_in_a_prompt": Sample(
        cells=("%%agent run clerk --as answer\nKeep {{{{ these }} and give the price of `tea`.",), results=("answer",)
    ),
    "front_matter": Sample(
        cells=(
            "%%agent build careful --tools price\n---\nmodel_settings: {temperature: 0}\n---\nYou are careful.",
            "%%agent run careful --as answer\nWhat is the price of `tea`?",
        ),
        results=("answer",),
        has=("temperature",),
    ),
    "model_object": Sample(
        cells=(
            "from agentkit.testing import ScriptedModel\n\nparrot = ScriptedModel.by(lambda messages: 'polly', model_name='parrot')",
            "%%agent build bird --model parrot\nYou are a bird.",
            "%%agent run bird --as answer\nHello?",
        ),
        results=("answer",),
        has=("model=parrot",),
    ),
    "an_agent_made_by_hand": Sample(
        cells=(
            "from pydantic_ai import Agent\nfrom pydantic_ai.models.test import TestModel\n\n"
            "greeter = agentkit.durable(Agent(TestModel(custom_output_text='Good day.'), name='greeter'))",
            "said = (await greeter.run('Greet me.')).output",
        ),
        results=("said",),
    ),
    "dependencies": Sample(
        cells=(
            "from pydantic_ai import RunContext\n\nshop = {'name': 'Corner'}\n\n@agentkit.tool(effects='none')\n"
            'def shop_name(ctx: RunContext[dict]) -> str:\n    """The name of the shop."""\n    return ctx.deps[\'name\']',
            "%%agent build host --tools shop_name --deps shop\nYou welcome people.",
            "%%agent run host --as answer\nWhat is the shop name?",
        ),
        results=("answer",),
        has=("deps=shop",),
    ),
    "approved_by_policy": Sample(
        cells=(
            '@agentkit.tool(effects="once", approve="ask")\ndef order(item: str) -> str:\n    """Order an item."""\n    return "ordered " + item',
            "%%agent build buyer --tools order\nYou buy.",
            "%%agent run buyer --headless allow --as answer\nOrder the item `tea`.",
        ),
        results=("answer",),
        has=('headless="allow"',),
    ),
    "magics_and_shell": Sample(
        cells=(
            "%pwd\n!echo hello\nitem = 'tea'\n%time count = 2",
            "%%time\nwanted = item * 1",
            "%%agent run clerk --as answer\nWhat is the price of `{{ wanted }}`, {{ count }} times?",
        ),
        results=("answer",),
        has=("count = 2",),
        has_not=("echo hello\n",),
    ),
    "tagged": Sample(
        cells=("scratched = 1", ask("tea", "answer")),
        tags={0: "skip", 1: "step:first look"},
        results=("answer",),
        has=("async def first_look(",),
        has_not=("scratched",),
    ),
    "only_for_the_eye": Sample(
        cells=(ask("tea", "answer"), "print(answer)\nanswer.upper()", "len(answer)", "shown = 'not needed'"),
        results=("answer",),
        has_not=("\n    print(answer)", "shown = "),
    ),
    "texts_of_several_lines": Sample(
        cells=(
            'text = """first\n  second\n\nthird"""\nsaid = (await clerk.run(f"""What is the price of `tea`?\n{text}\n    (indented)""")).output',
        ),
        results=("said",),
    ),
    "captured_later": Sample(
        cells=(
            "n = 1\ntwice = lambda: n * 2\nlazily = (n + k for k in range(2))",
            "n = 5",
            "item = ['milk', 'tea'][twice() > 5]\nwide = sum(lazily)",
            "%%agent run clerk --as answer\nWhat is the price of `{{ item }}`? {{ wide }}",
        ),
        results=("answer",),
        has=("n = 5",),
    ),
    "heavy_tool": Sample(
        cells=(
            '@agentkit.tool(effects="none", memory="512MB", timeout="30s")\ndef weigh(item: str) -> int:\n    """The weight of an item in grams."""\n    return len(item) * 100',
            "%%agent build scales --tools weigh\nYou weigh.",
            "%%agent run scales --as answer\nWhat is the weight of `tea`?",
        ),
        results=("answer",),
    ),
    # ---- what must not be exported
    "star_import": Sample(
        cells=(
            "from math import *",
            "size = sqrt(4)",
            "%%agent run clerk --as answer\nPrice of `tea`, {{ size }} times?",
        ),
        refused=("cell 5", "cell 4", "from math import sqrt"),
    ),
    "a_line_with_a_mistake": Sample(
        cells=("%agent build other", "%%agent run clerk --as answer\nPrice of `tea`?"),
        refused=("cell 4 cannot be read", "%%agent build is a cell", "tag the cell `skip`"),
    ),
    "another_order": Sample(
        cells=("item = 'tea'", "item = 'milk'", "%%agent run clerk --as answer\nPrice of `{{ item }}`?"),
        counts={0: 9, 1: 8, 2: 10},
        refused=("cell 6 reads item", "cell 5", "cell 4", "Restart"),
    ),
    "hidden_state": Sample(
        cells=("%%agent run clerk --as answer\nPrice of `{{ vanished }}`?",),
        refused=("cell 4 reads vanished", "no cell defines"),
    ),
    "read_after_del": Sample(
        cells=("item = 'tea'", "del item", "%%agent run clerk --as answer\nPrice of `{{ item }}`?"),
        refused=("cell 6 reads item", "cell 5 deletes"),
    ),
    "used_before_it_is_made": Sample(
        cells=("%%agent run clerk --as answer\nPrice of `{{ item }}`?", "item = 'tea'"),
        refused=("cell 4 reads item", "only cell 5"),
    ),
    "typed_in": Sample(
        cells=("item = input('which? ')", "%%agent run clerk --as answer\nPrice of `{{ item }}`?"),
        refused=("cell 4 calls input()", "parameter"),
    ),
    "from_the_shell": Sample(
        cells=("names = !ls", "%%agent run clerk --as answer\nPrice of `{{ names }}`?"),
        refused=("cell 5 reads names",),
    ),
    "last_result": Sample(
        cells=("%%agent run clerk\nPrice of `tea`?", "said = _\nshort = said.upper()\nassert short"),
        refused=("cell 5 reads _", "--as"),
    ),
    "function_made_twice": Sample(
        cells=(
            "def pick():\n    return 'tea'",
            "one = pick()",
            "def pick():\n    return 'milk'",
            "%%agent run clerk --as answer\nPrice of `{{ one }}` and `{{ pick() }}`?",
        ),
        refused=("pick is defined in cell 4 and again in cell 6",),
    ),
    "default_from_a_parameter": Sample(
        cells=(
            "rate = 2",
            '@agentkit.tool(effects="none")\ndef raised(item: str, by: float = rate) -> float:\n    """A raised price."""\n    return prices[item] * by',
            "%%agent build raiser --tools raised\nYou raise.",
            "%%agent run raiser --as answer\nRaised price of `tea`?",
        ),
        tags={0: "parameters"},
        refused=("cell 5 defines raised with rate", "parameter"),
    ),
    "state_of_a_tool": Sample(
        cells=(
            'log = []\n\n@agentkit.tool(effects="idempotent")\ndef keep(text: str) -> str:\n    """Keep a text."""\n    log.append(text)\n    return "kept"',
            "%%agent build keeper --tools keep\nYou keep texts.",
            '%%agent run keeper --as answer\nKeep the text "a".',
            "count = len(log) + len(answer)",
        ),
        refused=("cell 6", "changes log", "cell 7 reads it"),
    ),
    "no_agent": Sample(cells=("x = 1",), refused=("runs no agent",), setup=False),
    "an_edited_run": Sample(
        cells=(ask("tea", "answer"), "%%agent edit --reply\nforged"), refused=("cell 5", "%%agent edit", "skip")
    ),
    "a_run_in_a_block": Sample(
        cells=("for n in range(2):\n    %agent run clerk Price of `tea`?",),
        refused=("cell 4", "inside a block", "await clerk.run"),
    ),
    "not_python": Sample(cells=("x = = 1", ask("tea", "answer")), refused=("cell 4 is not Python",)),
    "computed_parameter": Sample(
        cells=("import os\nhome = os.getcwd()", "%%agent run clerk --as answer\nPrice of `tea` in {{ home }}?"),
        tags={0: "parameters"},
        refused=("cell 4", "home", "computed"),
    ),
}
KEPT = {name: sample for name, sample in SAMPLES.items() if not sample.refused}
REFUSED = {name: sample for name, sample in SAMPLES.items() if sample.refused}

MAPPED = """
import os
import pathlib
import time

import agentkit
import pandas as pd
from agentkit.testing import ScriptedModel

def answer(messages):
    item = str(messages[0].parts[-1].content).splitlines()[-1]
    time.sleep(float(os.environ.get("SLOW", "0")))
    with pathlib.Path(os.environ["LEDGER"]).open("a") as file:
        file.write(item + "\\n")
    return f"{item} seen"

brain = ScriptedModel.by(answer, model_name="brain")
"""


def map_sample(options: str, *, name: str = "answers", body: str = "Of {{ shop }}: look at\n{{ row.title }}") -> Sample:
    """A map over ten items, with a value of the notebook in its prompt, and what is computed from its frame."""
    bound = f" --as {name}" if name else ""
    after = (f"count = int({name}['answer'].str.endswith('seen').sum())",) if name else ()
    return Sample(
        cells=(
            MAPPED,
            "shop = ' the {{ row.title }} shop '\nproducts = pd.DataFrame({'title': [f'item {n}' for n in range(10)]})",
            "%%agent build clerk --model brain\nYou look.",
            f"%%agent map clerk --rows products{bound}{options}\n{body}",
            *after,
        ),
        setup=False,
    )
