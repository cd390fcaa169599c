"""Comparisons of models, journaled and replayed, and checkups of the models that are configured."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.models import Model

import agentkit
from agentkit.agent.compare import Comparison, alike, compare
from agentkit.agent.doctor import examine
from agentkit.agent.spec import Spec
from agentkit.errors import UserError
from agentkit.models import resolve
from agentkit.testing import Output, ScriptedModel
from agentkit.trace import checkup_view, compare_view, render_html
from agentkit.trace.trace import Trace
from tests.serving import serving


def model(name: str, *replies: Any, cost: float = 0.01, delay: float = 0.0) -> ScriptedModel:
    return ScriptedModel(replies, model_name=name, cost=cost, delay=delay)


def go(folder: Path, chosen: Sequence[str | Model], prompts: Sequence[str] = ("Which?",), **more: Any) -> Comparison:
    agent = agentkit.build(Spec.parse("You answer."), name="asked", model="offline")
    with agentkit.session(folder=folder):
        return asyncio.run(compare(agent, prompts, chosen, **more))


def test_cost_latency_and_agreement_of_each_model(tmp_path: Path) -> None:
    cheap = model("cheap", "North", "north.", "South", cost=0.001)
    dear = model("dear", "North", "North", "North", cost=0.01, delay=0.05)
    bad = model("bad", "East", "West", "East", cost=0.02, delay=0.1)
    found = go(tmp_path, [cheap, dear, bad], repeat=3)
    frame = compare_view.models_frame(found).set_index("model")
    assert list(frame.index) == ["scripted:cheap", "scripted:dear", "scripted:bad"]
    assert frame.loc["scripted:cheap", "cost"] == pytest.approx(0.001)
    assert frame.loc["scripted:dear", "p50"] >= 0.05
    assert frame.loc["scripted:bad", "agreement"] == 0
    assert list(frame["pareto"]) == [True, False, False]
    samples = compare_view.samples_frame(found)
    assert len(samples) == 9 and set(samples["asked"]) == {"Which?"}


def test_it_is_journaled_and_replays_with_the_figures_of_the_live_runs(tmp_path: Path) -> None:
    first = go(tmp_path, [model("a", "one", "two", delay=0.05)], repeat=2)
    again = go(tmp_path, [model("a")], repeat=2)
    assert [sample.output for sample in again.samples] == ["one", "two"]
    assert all(sample.replayed for sample in again.samples)
    for then, now in zip(first.samples, again.samples, strict=True):
        assert (now.cost, now.output_tokens) == (then.cost, then.output_tokens)
        assert now.seconds is not None and now.seconds >= 0.05


def test_answers_stand_side_by_side_and_agreement_is_explained(tmp_path: Path) -> None:
    one = model("one", "It is North", "north <b>again</b>")
    down = model("down", ModelHTTPError(503, "down"), "South")
    shown = compare_view.html(found := go(tmp_path, [one, down], ["Which?"], repeat=2))
    first, second = re.findall(r"<tr>(<td style=[^>]*pre-wrap.*?)</tr>", shown)
    assert first.index("It is North") < first.index("503") and second.index("north &lt;b&gt;again") < second.index(
        "South"
    )
    assert "Agreement: how much an answer has of what the other models answered" in shown
    assert "one's other answers" not in shown
    text = compare_view.text(found)
    assert "scripted:one: It is North" in text and "scripted:down: South" in text and "Agreement: " in text
    alone = compare_view.text(go(tmp_path, [model("one", "a", "b")], ["Again?"], repeat=2))
    assert "the model's other answers" in alone


def test_a_saved_comparison_stays_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    one, other = (ScriptedModel.by(lambda messages: "w " * 5_000, model_name=name) for name in ("one", "other"))
    found = go(tmp_path, [one, other], [f"Which {number}?" for number in range(8)], repeat=4)
    shown = compare_view.html(found)
    assert len(shown) < 40_000 and "28 more answers" in shown


def test_the_rows_of_its_runs_name_the_model(tmp_path: Path) -> None:
    chosen = [model("small", *["x"] * 40), model("large", "y")]
    go(tmp_path, chosen)
    with agentkit.session(folder=tmp_path) as session:
        runs = session.runs()
        trace = Trace.of([event for run in runs for event in session.trace(run.id)])
    for shown in (render_html.text(trace, now=0), re.sub("<[^>]*>", "", render_html.html(trace, now=0))):
        assert "asked on small" in shown and "asked on large" in shown
    only = Trace.of(trace.events()[:2])
    assert "asked on" not in render_html.text(only, now=0)


def test_many_runs_are_one_row_for_each_model(tmp_path: Path) -> None:
    go(tmp_path, [model("small", *["x"] * 30), model("large", "y")], [f"{number}" for number in range(1)], repeat=1)
    go(tmp_path, [model("small", *["x"] * 60)], [f"Which {number}?" for number in range(30)])
    with agentkit.session(folder=tmp_path) as session:
        trace = Trace.of([event for run in session.runs() for event in session.trace(run.id)])
    shown = render_html.text(trace, now=0)
    assert "asked on small × 31" in shown and "asked on large · 1 live" in shown


def test_one_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    found = go(tmp_path, [model("down", ModelHTTPError(503, "down")), model("up", "fine")])
    down, up = found.samples
    assert "503" in down.error and up.output == "fine"
    frame = compare_view.models_frame(found)
    assert list(frame["failed"]) == [1, 0] and list(frame["pareto"]) == [False, True]
    assert ", <b" in (shown := compare_view.html(found)) and ">all failed</b>" in shown and ">1 <b" not in shown
    assert "unpriced" not in shown  # whoever never answered has no price to lack


def test_a_judge_grades_and_a_relative_is_named(tmp_path: Path) -> None:
    judge = ScriptedModel.by(lambda messages: Output({"reason": "good", "score": 0.75}), model_name="judge")
    found = go(tmp_path, [model("a", "one"), model("b", "two")], judge=judge)
    assert [sample.score for sample in found.samples] == [0.75, 0.75]
    assert "of the same family as scripted:a, scripted:b" in found.notes[0]
    assert ">0.75<" in compare_view.html(found)


def test_each_row_is_a_prompt(tmp_path: Path) -> None:
    found = go(tmp_path, [model("a", "1", "2")], prompts=["first", "second"])
    assert [sample.prompt for sample in found.samples] == [0, 1]


def test_agreement_of_texts_and_values() -> None:
    assert alike("It is North!", "it is north") == 1
    assert alike("It is North", "It was South") == pytest.approx(1 / 3)
    assert alike("w " * 100_000, "W, " * 100_000) == 1 and alike("a " * 9_000, "a " * 5_000 + "b") == 1
    assert (alike({"a": 1}, {"a": 1}), alike({"a": 1}, {"a": 2})) == (1, 0)


def test_percentiles_are_values_that_occurred() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [compare_view.percentile(ordered, share) for share in (50, 95, 99)] == [50, 95, 99]
    assert compare_view.percentile([2.0], 99) == 2.0 and compare_view.percentile([], 50) is None


@pytest.mark.parametrize("chosen", [[], ["offline", "offline"]])
def test_models_that_make_no_comparison_are_one_line(tmp_path: Path, chosen: list[str | Model]) -> None:
    with pytest.raises(UserError, match="name each model once"):
        go(tmp_path, chosen)


def test_the_picture_escapes_what_is_foreign(tmp_path: Path) -> None:
    found = go(tmp_path, [model("<script>", "x")])
    assert "<script>" not in compare_view.html(found) and "<svg" not in compare_view.html(found)


# ---- doctor


def test_a_checkup_of_servers_keys_and_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        good, wrong = server.model("small"), server.model("small").replace("http://", "http://sk-wrong@")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        found = {
            one.used_by: one
            for one in asyncio.run(
                examine(
                    {
                        "offline": "offline",
                        "good": good,
                        "wrong": wrong,
                        "gone": "http://127.0.0.1:9/v1#x",
                        "priced": "openai:gpt-4o",
                        "keyless": "anthropic:claude-sonnet-4-5",
                        "typo": "ofline",
                    }
                )
            )
        }
        assert not server.ledger()
    assert (found["offline"].reachable, found["offline"].price) == ("not needed", "yes")
    assert (found["good"].reachable, found["good"].key, found["good"].price) == ("yes", "yes", "no")
    assert (found["wrong"].reachable, found["wrong"].key) == ("yes", "no")
    assert "refused (401)" in found["wrong"].problem
    assert found["gone"].reachable == "no" and "cannot reach 127.0.0.1:9" in found["gone"].problem
    priced = found["priced"]
    assert (priced.tools, priced.streaming, priced.structured_output, priced.price) == ("yes", "yes", "yes", "yes")
    assert found["keyless"].problem
    assert "did you mean 'offline'" in found["typo"].problem
    shown = checkup_view.text(list(found.values()))
    assert "cannot reach 127.0.0.1:9" in shown and "sk-wrong" not in shown + checkup_view.html(list(found.values()))


def test_members_of_a_chain_are_examined_each(tmp_path: Path) -> None:
    found = asyncio.run(examine({"steady": "offline | test(5s) | cached(7d)"}))
    assert [one.model for one in found] == ["offline", "test:test"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("small", ""), ("smal", "does not list smal (did you mean small?); it has org/qwen3, small"), ("qwen3", "")],
)
def test_a_model_that_its_server_does_not_list_has_its_own_line(name: str, said: str) -> None:
    with serving() as server:
        server.listed = ("org/qwen3", "small")
        (found,) = asyncio.run(examine({"one": server.model(name)}))
    assert (found.reachable, found.key) == ("yes", "yes")
    assert found.problem == "" if not said else said in found.problem


def test_a_certificate_that_nobody_vouches_for_has_its_own_line(tmp_path: Path) -> None:
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(["openssl", *request.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with serving() as server:
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        address = server.model().replace("http://", "https://")
        (found,) = asyncio.run(examine({"one": address}))
        assert found.reachable == "no" and "its certificate is not trusted (self-signed certificate)" in found.problem
        with pytest.raises(ModelAPIError) as error:
            asyncio.run(agentkit.build(Spec.parse("Go."), name="one", model=address).run("hello"))
        assert "127.0.0.1" in resolve.explain(error.value) and "SSL_CERT_FILE" in resolve.explain(error.value)


def test_what_is_wrong_with_the_arguments_of_build_is_said_in_its_words() -> None:
    for given, said in (({"tools": [3]}, "tools takes functions"), ({"at_limit": "stop"}, "at_limit='stop'")):
        with pytest.raises(UserError) as refused:
            agentkit.build(Spec.parse("Go."), name="one", model="offline", **given)
        assert said in str(refused.value) and "--" not in str(refused.value)
