"""The magics in a real kernel: build, run, replay, conversations, verbs, Stop, nesting, errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Kernel, kernel

SETUP = """
from agentkit.testing import Call, ScriptedModel
from pydantic import BaseModel
import agentkit, asyncio

@agentkit.tool(effects="none")
def sales(year: int) -> int:
    "Units sold in a year."
    return year * 2

def talk(messages):
    said = str(messages[-1].parts[-1].content)
    return f"You said: **{said}**"

talker = ScriptedModel.by(talk)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("notebook")) as running:
        assert running.run("%load_ext agentkit").status == "ok"
        assert running.run(SETUP).status == "ok"
        yield running


def test_an_agent_is_built_asked_and_replayed(notebook: Kernel) -> None:
    built = notebook.run("%%agent build analyst --tools sales\nYou answer questions about sales.")
    assert (built.status, built.text) == ("ok", "analyst: offline, tools sales\n")
    prompt = "%%agent run analyst --as answer\nHow many sales in the year {{ 2000 + 20 }}?"
    first = notebook.run(prompt)
    assert "4040" in first.of("text/markdown")[0]
    assert "3 steps: 3 live, 0 replayed" in first.headline
    second = notebook.run(prompt)
    assert second.of("text/markdown") == first.of("text/markdown")
    assert "3 steps: 0 live, 3 replayed" in second.headline


def test_the_output_is_bound_to_as_to_underscore_and_to_out(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo --as heard\nhello")
    assert notebook.value("_, heard, heard is list(Out.values())[-1]") == repr(("You said: **hello**",) * 2 + (True,))
    assert notebook.value("echo.last.run.agent") == "'echo'"


def test_a_watched_cell_draws_as_it_goes_and_an_unwatched_one_once(notebook: Kernel) -> None:
    notebook.run("slow_talker = ScriptedModel.by(lambda m: 'one two three four five six', delay=0.4)")
    notebook.run("%%agent build slow --model slow_talker\nYou take your time.")
    alone = notebook.run("%%agent run slow\nalone")
    assert (len(alone.shown), alone.updates) == (2, [])
    watched = notebook.run("%%agent run slow\nwatched", watched=True)
    assert len(watched.shown) == 2 and len(watched.updates) >= 3
    assert "running" in str(watched.shown[0]["data"]) + str(watched.shown[1]["data"])
    (panel,) = watched.panels
    assert "done" in panel["data"]["text/plain"].splitlines()[0] and panel["metadata"]["agentkit"]


def test_plain_python_gets_a_panel_too(notebook: Kernel) -> None:
    notebook.run("%%agent build plain --model talker\nYou repeat.")
    cell = notebook.run("results = await asyncio.gather(*(plain.run(f'n {n}') for n in range(5)))", watched=True)
    assert cell.status == "ok", cell.traceback
    assert "5 steps: 5 live" in cell.headline
    assert notebook.run("len(results)").panels == []


def test_a_task_that_outlives_its_cell_keeps_its_panel(notebook: Kernel) -> None:
    notebook.run("%%agent build later --model talker\nYou repeat.")
    assert notebook.run("task = asyncio.ensure_future(later.run('afterwards'))", watched=True).status == "ok"
    ended = notebook.run("(await task).output", watched=True)
    assert ended.result == "'You said: **afterwards**'"


def test_output_takes_a_model_of_the_notebook(notebook: Kernel) -> None:
    notebook.run("class City(BaseModel):\n    name: str\n    people: int")
    notebook.run("mayor = ScriptedModel([Call('final_result', {'name': 'Ulm', 'people': 3})])")
    notebook.run("%%agent build counter --model mayor --output City\nYou count.")
    assert notebook.run("%%agent run counter --as city\nHow many?").status == "ok"
    assert notebook.value("city") == "City(name='Ulm', people=3)"
    assert "no schema" in str(notebook.run("%%agent build wrong --output object()\nx").error)


def test_a_conversation_goes_on_and_survives_a_restart(tmp_path: Path) -> None:
    with kernel(tmp_path) as running:
        for _ in range(2):
            running.run("%load_ext agentkit")
            running.run(SETUP + "\ncounting = ScriptedModel.by(lambda messages: f'{len(messages)} messages')")
            running.run("%%agent build memory --model counting\nYou count.")
            running.run("%%agent run memory --as first\nhello", cell="one")
            cell = running.run("%%agent run memory --continue --as second\nand again", cell="two")
            assert cell.status == "ok", cell.traceback
            assert running.value("first, second") == "('1 messages', '3 messages')"
            running.restart()
        running.run("%load_ext agentkit")
        frame = running.run("runs = %agent runs\nlist(runs.columns), len(runs)")
        assert frame.status == "ok", frame.traceback


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("%%agent bild x\ny", "UserError: %%agent: unknown verb bild (did you mean build?); %agent help lists them"),
        ("%%agent run analist\nhi", "UserError: no agent is called analist (did you mean analyst?)"),
        ("%%agent run sales\nhi", "UserError: sales is a function, not an agent"),
        ("%%agent run analyst\n  \n", "SpecError: the body is empty: write the prompt under"),
        ("%%agent build fresh\n", "SpecError: the body is empty: write the agent's instructions under"),
        ("%%agent run analyst\nSince\n{{ strat }}", "SpecError: line 3: {{ strat }}: strat is not defined"),
        ("%%agent build new --tools sale\nx", "UserError: --tools: no tool is called sale (did you mean sales?)"),
        ("%%agent build new --model opnai:gpt-5\nx", "UserError: --model: unknown model 'opnai:gpt-5'"),
        (
            "%%agent build new --model openai:gpt-5\nx",
            "UserError: --model: model 'openai:gpt-5': set the environment variable",
        ),
        (
            "%%agent build new --model http://127.0.0.1:off/v1#m\nx",
            "UserError: --model: model 'http://127.0.0.1:off/v1#m': its",
        ),
        (
            "%%agent build new\n---\nmodel: http://127.0.0.1:off/v1#m\n---\nx",
            "UserError: front matter: model: model 'h",
        ),
        (
            "%%agent compare analyst --models offline,http://127.0.0.1:off/v1#m\nx",
            "UserError: --models: model 'http://127",
        ),
        ("%%agent compare analyst --models offline --judge openai:\nx", "UserError: --judge: "),
        (
            "%agent model http://127.0.0.1:99999/v1#m",
            "UserError: %agent model: model 'http://127.0.0.1:99999/v1#m': its",
        ),
        (
            "%agent fork analyst 1 --model http://127.0.0.1:off/v1#m",
            "UserError: --model: model 'http://127.0.0.1:off/v1",
        ),
        ("%%agent build new --output Ctiy\nx", "UserError: --output Ctiy: Ctiy is not defined"),
        ("%%agent build new\n---\nmodl: x\n---\ny", "SpecError: line 3: unknown field modl (did you mean model?)"),
        ("%%agent build sales\nx", "UserError: build: sales is already a function in this notebook"),
        ("%%agent build list\nx", "UserError: build: list is a Python built-in"),
        ("%%agent run analyst --as 2x\ny", "UserError: --as: '2x' cannot be a variable"),
        ("%%agent run analyst --mode rplay\ny", "UserError: mode rplay: one of auto, live, replay, off (did you"),
        ("%%agent run analyst --mode replay\nnever asked", "ReplayMiss: "),
        ("%%agent run analyst --continue r0\ny", "UserError: no run 'r0' in the journal"),
        ("%agent trace nobody", "UserError: no run or agent nobody is recorded"),
        ("%agent settle 1 --redo --stop", "UserError: %agent settle"),
        ("%agent settle 1 --result {", "UserError: --result {: not JSON"),
        ("%agent settle 99999 --redo", "UserError: no step 99999"),
        ("%agent forget nothing", "UserError: nothing recorded is called nothing"),
        ("%agent model nonsense:x", "UserError: %agent model: unknown model"),
        ("%%agent build new --model http://127.0.0.1:off/v1#m\nx", "UserError: --model: model 'http://127.0.0.1:off"),
        (
            "%%agent build new --model http://127.0.0.1:99999/v1#m\nx",
            "UserError: --model: model 'http://127.0.0.1:99999",
        ),
        ("%agent journal burn", "UserError: %agent journal: what is 'burn'?"),
    ],
)
def test_bad_input_gets_one_line(notebook: Kernel, code: str, said: str) -> None:
    notebook.run("%%agent build analyst --tools sales\nYou answer questions about sales.")
    cell = notebook.run(code)
    assert cell.status == "error"
    assert cell.traceback.startswith(said), cell.traceback
    assert "\n" not in cell.traceback.strip()


def test_a_failing_tool_is_one_line_with_its_place_and_the_rest_on_request(notebook: Kernel) -> None:
    notebook.run("@agentkit.tool(effects='none')\ndef broken(x: int) -> int:\n    'Breaks.'\n    return x // 0")
    notebook.run("caller = ScriptedModel([Call('broken', {'x': 1}), 'never'])")
    notebook.run("%%agent build fragile --tools broken --model caller\nx")
    cell = notebook.run("%%agent run fragile\ny")
    assert cell.traceback.startswith("RunFailed: %agent run fragile: ZeroDivisionError: ")
    assert "(in broken, line 4 of its cell)" in cell.traceback and "\n" not in cell.traceback
    assert "failed" in cell.headline
    full = notebook.run("%agent traceback").text
    assert full.startswith("Traceback") and "return x // 0" in full


def test_our_errors_are_one_line_in_plain_cells_too(notebook: Kernel) -> None:
    notebook.run("%%agent build analyst --tools sales\nYou answer questions about sales.")
    cell = notebook.run(
        "from agentkit.runtime.session import mode\nwith mode('replay'):\n    await analyst.run('unheard of')"
    )
    assert cell.ename == "ReplayMiss" and "\n" not in cell.traceback, cell.traceback
    assert "unheard of" in notebook.run("%agent traceback").text
    assert "Traceback" in notebook.run("1 / 0").traceback


def test_stop_acts_within_a_second_and_the_rerun_continues(notebook: Kernel) -> None:
    notebook.run("sleepy = ScriptedModel.by(lambda m: 'awake', delay=8)")
    notebook.run("%%agent build sleeper --model sleepy\nYou sleep.")
    cell = notebook.run("%%agent run sleeper\nwake up", watched=True, stop_after=1.0)
    assert cell.ename == "Interrupted" and "\n" not in cell.traceback
    assert cell.seconds < 2.5
    plain = notebook.run("await sleeper.run('plain')", watched=True, stop_after=1.0)
    assert plain.traceback.startswith("Interrupted: stopped; what is recorded is kept")
    assert plain.seconds < 2.5 and "stopped" in plain.headline
    kept = "list(get_ipython().history_manager.exceptions.values())[-1]['traceback']"
    assert notebook.value(f"len({kept}), 'Interrupted' in {kept}[0]") == "(1, True)"
    other = notebook.run("await asyncio.sleep(9)", watched=True, stop_after=0.5)
    assert other.ename == "CancelledError" and other.seconds < 2
    notebook.run("sleepy.delay = 0")
    again = notebook.run("%%agent run sleeper\nwake up")
    assert again.status == "ok", again.traceback


def test_under_other_magics_and_in_functions_it_waits_on_another_loop(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    timed = notebook.run("%%time\n%%agent run echo\nin time")
    assert timed.of("text/markdown") == ["You said: **in time**"] and "Wall time" in timed.text
    notebook.run("%%capture taken\n%%agent run echo\ncaptured")
    assert notebook.value("taken.outputs[0].data['text/plain']") == "'You said: **captured**'"
    notebook.run("def f():\n    said = %agent run echo inside?\n    return said")
    assert notebook.value("f()") == "'You said: **inside?**'"


def test_stop_reaches_a_nested_run(notebook: Kernel) -> None:
    notebook.run("sleepier = ScriptedModel.by(lambda m: 'awake', delay=8)")
    notebook.run("%%agent build nested --model sleepier\nYou sleep.")
    cell = notebook.run("%%time\n%%agent run nested\nwake up down there", watched=True, stop_after=1.0)
    assert cell.status == "error" and cell.seconds < 3
    assert notebook.value("1 + 1") == "2"


def test_a_line_is_taken_as_typed_and_may_be_assigned(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    cell = notebook.run("who = 'x'\nsaid = %agent run echo What's {who}, $who?\nsaid")
    assert cell.result == repr("You said: **What's {who}, $who?**")
    looped = notebook.run("for n in range(2):\n    %agent run echo line {{ n }}")
    assert looped.of("text/markdown") == ["You said: **line 0**", "You said: **line 1**"]


def test_equal_prompts_in_one_cell_are_answers_of_their_own_and_replay_as_those(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    cell = "for n in range(3):\n    %agent run echo the very same"
    assert "3 steps: 3 live" in notebook.run(cell).headline
    assert "0 live, 3 replayed" in notebook.run(cell).headline
    assert "0 live, 1 replayed" in notebook.run("%%agent run echo\nthe very same").headline


def test_an_answer_cannot_act_in_the_page(notebook: Kernel) -> None:
    notebook.run("evil = ScriptedModel.by(lambda m: '<script>alert(1)</script> ![x](http://e.example/?q)')")
    notebook.run("%%agent build hostile --model evil\nx")
    (shown,) = notebook.run("%%agent run hostile --as said\ny").of("text/markdown")
    assert "<script" not in shown and "![" not in shown
    assert notebook.value("said.startswith('<script>')") == "True"


def test_the_verbs_that_look(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\nlook")
    assert "agents " in notebook.run("%agent").text
    assert notebook.run("%agent trace").headline.startswith("echo · done")
    assert "live" in notebook.run("%agent why").text
    for verb in ("cost", "runs"):
        shown = notebook.run(f"%agent {verb}")
        assert shown.of("text/html"), shown.traceback
        assert notebook.value("type(_).__name__") == "'DataFrame'"
    assert "whole" in notebook.run("%agent journal verify").text
    assert notebook.run("%agent settle").text == "nothing is in doubt\n"
    assert "--tools" in notebook.run("%agent help build").text
    assert notebook.run("%agent mode").text.startswith("mode auto")
    assert "offline" in notebook.run("%agent model").text


def test_what_runs_cost_is_summed_up_below_the_steps(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\nsum up")
    shown = notebook.run("%agent cost echo")
    assert "maybe_paid_twice" not in shown.of("text/html")[0]
    assert "1 step: 1 live, 0 replayed · " in shown.text and "tokens · " in shown.text
    (table,) = notebook.run("%agent runs").of("text/html")
    assert "&lt;NA&gt;" not in table and "UTC" in table


def test_forgotten_steps_are_live_again(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    prompt = "%%agent run echo\nforget me"
    notebook.run(prompt)
    assert "0 live" in notebook.run(prompt).headline
    assert "will not be replayed" in notebook.run("%agent forget echo").text
    assert "1 live" in notebook.run(prompt).headline


def test_fresh_asks_anew_and_a_mode_can_be_set(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\nagain and again")
    assert "1 live" in notebook.run("%%agent run echo --fresh\nagain and again").headline
    notebook.run("%agent mode replay")
    assert notebook.run("%%agent run echo\nnot yet").ename == "ReplayMiss"
    assert "0 live" in notebook.run("%%agent run echo\nagain and again").headline
    notebook.run("%agent mode auto")


def test_tab_completes_verbs_options_agents_tools_models_and_runs(notebook: Kernel) -> None:
    notebook.run("%%agent build analyst --tools sales\nx")
    assert notebook.complete("%%agent bu") == ["build"]
    assert notebook.complete("%%agent build x --to") == ["--tools"]
    assert notebook.complete("%%agent build x --tools sal") == ["sales"]
    assert "offline" in notebook.complete("%%agent build x --model off")
    assert any(name.startswith("gpt-") for name in notebook.complete("%%agent build x --model openai:gp"))
    assert notebook.complete("%%agent run ana") == ["analyst"]
    assert notebook.complete("%%agent run analyst --mode re") == ["replay"]
    assert "settle" in notebook.complete("%agent set")


def test_help_explains(notebook: Kernel) -> None:
    reply = notebook.client.inspect("%agent", 6, reply=True, timeout=20)["content"]
    assert reply["found"] and "%%agent build" in reply["data"]["text/plain"]


def test_the_extension_can_be_reloaded(notebook: Kernel) -> None:
    assert notebook.run("%reload_ext agentkit").status == "ok"
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    cell = notebook.run("%%agent run echo\nreloaded")
    assert len(cell.panels) == 1 and cell.of("text/markdown") == ["You said: **reloaded**"]
    assert notebook.complete("%%agent bu") == ["build"]


def test_what_a_tool_shows_is_shown_again_on_replay(notebook: Kernel) -> None:
    notebook.run(
        "from IPython.display import display\n@agentkit.tool(effects='none')\ndef draw(n: int) -> str:\n"
        "    'Draws.'\n    display({'text/plain': f'a drawing of {n}'}, raw=True)\n    return 'drawn'"
    )
    notebook.run("artist_model = ScriptedModel([Call('draw', {'n': 7}), 'There it is.'])")
    notebook.run("%%agent build artist --tools draw --model artist_model\nYou draw.")
    for headline in ("3 live", "0 live, 3 replayed"):
        cell = notebook.run("%%agent run artist\nseven", watched=True)
        assert headline in cell.headline
        assert cell.of("text/plain").count("a drawing of 7") == 1


def test_an_agent_made_elsewhere_is_journaled_by_the_first_cell_that_uses_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pydantic_ai import Agent\nfrom pydantic_ai.models.test import TestModel\n"
        "def make():\n    import agentkit\n    return agentkit.durable(Agent(TestModel(), name='own'))\n"
    )
    with kernel(tmp_path) as running:
        running.run("%load_ext agentkit")
        assert not (tmp_path / ".agentkit").exists()
        cell = running.run("import mine\nown = mine.make()\nawait own.run('hi')")
        assert cell.status == "ok", cell.traceback
        assert "own · done · 1 step: 1 live" in cell.headline
        assert "1 replayed" in running.run("await own.run('hi')").headline


def test_an_agent_of_pydantic_ai_can_be_asked_by_the_magic(notebook: Kernel) -> None:
    notebook.run("from pydantic_ai import Agent\nbare = Agent(talker, name='bare')")
    assert notebook.run("%%agent run bare\nas it is").of("text/markdown") == ["You said: **as it is**"]
    assert "1 replayed" in notebook.run("%%agent run bare\nas it is").headline


def test_loading_imports_nothing_slow(tmp_path: Path) -> None:
    def load(running: Kernel) -> float:
        running.run(
            "import sys, time\nbegun = time.perf_counter()\n%load_ext agentkit\ntook = time.perf_counter() - begun"
        )
        return float(running.value("took"))

    taken = []
    for _ in range(2):
        with kernel(tmp_path, forked=False) as running:
            taken.append(load(running))
    with kernel(tmp_path, forked=False) as running:
        assert min(*taken, load(running)) < 0.1
        assert running.value("{'pydantic_ai', 'pandas', 'pydantic'} & set(sys.modules)") == "set()"
        assert running.run("%agent help").text.startswith("%agent ")
        for verb in ("cost", "runs", "trace", "why"):
            new = running.run(f"%agent {verb}")
            assert (new.status, new.text, new.shown) == ("ok", "nothing has run yet: %%agent run AGENT\n", []), verb


def test_a_recording_made_elsewhere_is_attached_and_replayed(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\ntravel")
    file = tmp_path / "travel.journal"
    notebook.run(
        "from agentkit.journal import portable\nfrom agentkit.runtime.session import current\n"
        f"from pathlib import Path\nportable.export(current().store, [echo.last.run.id], Path({str(file)!r}), str)"
    )
    assert file.exists()
    with kernel(tmp_path) as elsewhere:
        elsewhere.run("%load_ext agentkit")
        elsewhere.run(SETUP + "\ntalker = ScriptedModel([])")
        assert elsewhere.run(f"%agent journal attach {file}").text.startswith("1 step of 1 run added")
        elsewhere.run("%%agent build echo --model talker\nYou repeat.")
        cell = elsewhere.run("%%agent run echo\ntravel")
        assert cell.of("text/markdown") == ["You said: **travel**"], cell.traceback
        assert elsewhere.run("%%agent run echo\nanother").ename == "ReplayMiss"


def test_a_recording_that_lies_beside_the_notebook_is_taken_in(notebook: Kernel, tmp_path: Path) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\ntravel")
    file = tmp_path / "trip.agentkit"
    notebook.run(
        "from agentkit.journal import portable\nfrom agentkit.runtime.session import current\n"
        f"from pathlib import Path\nportable.export(current().store, [echo.last.run.id], Path({str(file)!r}), str)"
    )
    with kernel(tmp_path) as elsewhere:
        elsewhere.run(f"import os\nos.environ['AGENTKIT_NOTEBOOK'] = {str(tmp_path / 'trip.ipynb')!r}")
        elsewhere.run("%load_ext agentkit")
        elsewhere.run(SETUP + "\ntalker = ScriptedModel([])")
        built = elsewhere.run("%%agent build echo --model talker\nYou repeat.")
        assert "trip.agentkit: 1 step of 1 run added" in built.text
        cell = elsewhere.run("%%agent run echo\ntravel")
        assert cell.of("text/markdown") == ["You said: **travel**"], cell.traceback


def test_a_changed_run_says_where_it_diverged(notebook: Kernel) -> None:
    notebook.run("%%agent build echo --model talker\nYou repeat.")
    notebook.run("%%agent run echo\ntravel")
    notebook.run("%%agent build echo --model talker\nYou repeat after me.")
    assert "diverged: from step 1: 1 recorded step unused" in notebook.run("%%agent run echo\ntravel").text
    assert "instructions was 'You repeat.' and is 'You repeat after me.'" in notebook.run("%agent why echo").text
