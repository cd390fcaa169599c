"""Notebooks that use what guards a run: the sandbox, budgets, breakers, chains of models, tools in a process."""

from __future__ import annotations

from tests.pipeline.notebooks import Sample

WEIGH = (
    '@agentkit.tool(effects="none", memory=["128MB", "512MB"], timeout="30s")\ndef weigh(megabytes: int) -> int:\n'
    '    """The weight."""\n    return len(bytearray(megabytes * 2**20)) >> 20'
)
ALONE = (
    '@agentkit.tool(effects="none", network=False)\ndef look(n: int) -> int:\n    """Look."""\n    return n + 1\n\n'
    '@agentkit.tool(effects="none", isolate=True)\ndef peek(n: int) -> int:\n    """Peek."""\n    return n + 2\n\n'
    '@agentkit.tool(effects="none", memory="256MB", network=False)\ndef count(n: int) -> int:\n'
    '    """Count."""\n    return n + 3'
)

JOINTS: dict[str, Sample] = {
    "sandbox": Sample(
        cells=(
            "wanted = ['tea', 'milk']",
            "%%agent sandbox --in wanted --out total, each --call price --limits memory=256MB,time=10s,calls=20\n"
            "each = {item: price(item) for item in wanted}\ntotal = sum(each.values())\nprint(total)",
            "double = total * 2",
        ),
        results=("each", "total", "double"),
        has=('calls={"price": price}', 'limits="memory=256MB,time=10s,calls=20"', 'total = result.outputs["total"]'),
    ),
    "sandbox_that_calls_an_agent": Sample(
        cells=("%%agent sandbox --out said --call clerk\nsaid = clerk('What is the price of `tea`?')",),
        results=("said",),
        has=("clerk = make_clerk()", 'calls={"clerk": clerk}'),
    ),
    "sandbox_with_a_method_and_a_name_of_ours": Sample(
        cells=(
            "class Shop:\n    def __init__(self):\n        self.goods = {'tea': 2}\n\n"
            "    def has(self, item: str) -> int:\n        return self.goods[item]\n\n\nshop = Shop()",
            "%%agent sandbox --out result --call shop.has\nresult = has('tea')",
        ),
        results=("result",),
        has=('calls={"has": shop.has}', 'result = came_out.outputs["result"]'),
    ),
    "sandbox_in_a_process": Sample(
        cells=(
            "rows = [1, 2, 3]",
            "%%agent sandbox --tier process --in rows --out total --fresh\nimport math\ntotal = math.fsum(rows)\n",
        ),
        results=("total",),
        has=('tier="process"',),
        has_not=("fresh",),
    ),
    "guards": Sample(
        cells=(
            "%%agent build keeper --tools price --model offline --budget 0.50usd, 20k tokens --at-limit stop "
            "--breaker repeats=3/5/8 usd/min=2 --approve pri* --code --call price\nYou keep prices.",
            "%agent policy --headless allow --approve delete_*",
            "%agent breaker repeats=4/6/9",
            "%agent breaker usd/min=3",
            "%agent budget notebook 5usd/day",
            "%agent budget keeper 2usd --at-limit wait",
            "%agent throttle gpt-5 60k tpm",
            "%agent breaker",
            "%%agent run keeper --as kept\nWhat is the price of `tea`?",
        ),
        results=("kept",),
        has=(
            'budget="2.00usd/run, 20k tokens/run"',
            'at_limit="wait"',
            'breaker="repeats=3/5/8 usd/min=2"',
            'approve="pri*"',
            "code=True",
            'call="price"',
            'headless="allow", approve="delete_*", breaker="repeats=4/6/9 usd/min=3"',
        ),
    ),
    "chain_of_models": Sample(
        cells=(
            "%%agent build last --tools price --model test | offline | cached(7d)\nYou answer.",
            "%%agent run last --as kept\nWhat is the price of `tea`?",
        ),
        results=("kept",),
        has=('model="test | offline | cached(7d)"',),
    ),
    "ladder": Sample(
        cells=(
            WEIGH,
            "%%agent build scales --tools weigh\nYou weigh.",
            "%%agent run scales --as answer\nWhat is the weight of 300 megabytes?",
        ),
        results=("answer",),
    ),
    "tools_in_their_own_process": Sample(
        cells=(
            ALONE,
            "%%agent build eye --tools look, peek, count\nYou look.",
            "%%agent run eye --as answer\nLook at 3, peek at 4 and count 5.",
        ),
        results=("answer",),
    ),
}

REFUSED: dict[str, Sample] = {
    "a_program_that_is_stepped": Sample(
        cells=("%%agent sandbox --step --out n\nn = 1", "n + 1"),
        refused=("cell 4 steps through a program (--step)", "`skip`"),
    ),
    "what_an_agent_remembers": Sample(
        cells=("%%agent run clerk --as answer\nPrice of `tea`?", "last = clerk.last.messages\nlast.append(answer)"),
        refused=("cell 5 looks at the agent clerk", "`skip`"),
    ),
    "an_agent_made_by_the_shell": Sample(
        cells=(
            "get_ipython().run_cell_magic('agent', 'build other', 'You answer.')",
            "%%agent run other --as answer\nPrice of `tea`?",
        ),
        refused=("cell 5 reads other", "cell 4, where it may come from, is left out (needs the notebook's shell)"),
    ),
    "sizes_that_are_not_written_out": Sample(
        cells=(
            "SIZES = ['128MB', '512MB']",
            WEIGH.replace('["128MB", "512MB"]', "SIZES"),
            "%%agent build scales --tools weigh\nYou weigh.",
            "%%agent run scales --as answer\nWhat is the weight of 300 megabytes?",
        ),
        refused=("cell 5 declares weigh with memory=SIZES", "--target script"),
    ),
}
