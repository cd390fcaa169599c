"""`agentkit run`: a notebook executed with parameters in a real kernel, where nobody sits in front of it."""

from __future__ import annotations

import ast
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from agentkit import errors
from agentkit.approval import decisions
from agentkit.errors import UserError, nearest
from agentkit.journal.redaction import Redactor, is_secret_name
from agentkit.journal.secret_formats import find_secrets
from agentkit.journal.storage import journal_path
from agentkit.journal.store import Store
from agentkit.trace import format

DONE, FAILED, WAITS, BUDGET = 0, 1, 3, 4
_WAITING = frozenset({"ApprovalPending", "RunPaused"})
_BUDGET = "BudgetExceeded"
_POLL_SECONDS = 0.5
_BAR = 24
_NO_NOTEBOOK = (
    nbformat.reader.NotJSONError, nbformat.ValidationError, ValueError, TypeError, LookupError, AttributeError
)  # fmt: skip


def run(
    notebook: Path, parameters: Sequence[str], output: Path | None, *, wait: bool = False, timeout: float | None = None
) -> int:
    """Execute `notebook` and write what came out; the exit status says whether it is done, waits, or failed.

    Run again, it continues: what is recorded is replayed. With `wait` it stays while a question waits.
    """
    content = _read(notebook)
    given = _parse_parameters(parameters, content)
    secrets = {_variable(name): text for name, text in _texts(parameters).items() if _is_secret(name, text)}
    _give(content, given, secrets)
    redactor = Redactor.from_environ({**os.environ, **secrets})
    target = output or notebook.with_name(f"{notebook.stem}.out.ipynb")
    _check_output(target, notebook)
    for name in given:
        if _variable(name) in secrets:
            _tell(f"{name} is taken for a secret: the notebook reads it from {_variable(name)}, no record holds it")
    while True:
        status, said = _execute(content, notebook, timeout, secrets)
        _hide_secrets(content, redactor)
        nbformat.write(content, target)
        if status != WAITS or not wait:
            break
        _tell(redactor.scrub_again(said))
        _wait_for_decision(notebook)
    _tell(f"{redactor.scrub_again(said)}; {target}" if said else f"done: {target}")
    return status


def _hide_secrets(content: Any, redactor: Redactor) -> None:
    """What a cell shows, and what an error was raised with, is passed on with the notebook."""
    for cell in content.cells:
        if cell.get("outputs"):
            cell.outputs = [nbformat.from_dict(redactor.scrub_json_again(output)) for output in cell.outputs]


def _tell(text: str) -> None:
    sys.stderr.write(f"{format.visible(Redactor.from_environ(os.environ).scrub_again(text))}\n")
    sys.stderr.flush()


def _read(notebook: Path) -> Any:
    if not notebook.is_file():
        raise UserError(f"{notebook} is not there: name the notebook to run")
    try:
        return nbformat.read(notebook, as_version=4)
    except _NO_NOTEBOOK as error:
        said = str(error).split("\n", 1)[0]
        raise UserError(f"{notebook} cannot be read as a notebook ({said}): save it again in Jupyter") from error


def _check_output(target: Path, notebook: Path) -> None:
    if target.resolve() == notebook.resolve():
        raise UserError(f"{target} is the notebook itself: name another file with -o")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent} is not a folder: make it, or name another with -o")


# ---- parameters


def _texts(parameters: Sequence[str]) -> dict[str, str]:
    return {name: text for name, _, text in (parameter.partition("=") for parameter in parameters)}


def _is_secret(name: str, text: str) -> bool:
    return bool(text) and (is_secret_name(name) or bool(find_secrets(text)))


def _variable(name: str) -> str:
    """The variable of the kernel that holds a secret parameter: named so that every session there keeps it secret."""
    return f"PARAMETER_{name.upper()}" if is_secret_name(name) else f"PARAMETER_{name.upper()}_SECRET"


def _parse_parameters(parameters: Sequence[str], content: Any) -> dict[str, Any]:
    known = set(_names(content))
    given: dict[str, Any] = {}
    for parameter in parameters:
        name, sign, text = parameter.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"-p {parameter}: write NAME=VALUE")
        if name not in known:
            where = f"its parameters are {', '.join(sorted(known))}" if known else "it has no cell tagged `parameters`"
            raise UserError(f"-p {name}: the notebook has no such parameter{nearest(name, known)}; {where}")
        given[name] = _value(text)
    return given


def _value(text: str) -> Any:
    """A Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _find_parameter_cells(content: Any) -> Iterator[Any]:
    for cell in content.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            yield cell


def _names(content: Any) -> Iterator[str]:
    for cell in _find_parameter_cells(content):
        for node in ast.parse(cell.source).body:
            match node:
                case ast.Assign(targets=targets):
                    yield from (target.id for target in targets if isinstance(target, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield name


def _give(content: Any, values: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    """A cell after the parameters that gives them other values, as papermill does it."""
    content.cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if not values:
        return
    source = "\n".join(f"{name} = {_format_value(name, value, secrets)}" for name, value in values.items())
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    last = max(number for number, each in enumerate(content.cells) if each in list(_find_parameter_cells(content)))
    content.cells.insert(last + 1, cell)


def _format_value(name: str, value: Any, secrets: Mapping[str, str]) -> str:
    if _variable(name) not in secrets:
        return repr(value)
    read = f'__import__("os").environ["{_variable(name)}"]'
    return (
        read
        if isinstance(value, str) and value == secrets[_variable(name)]
        else f'__import__("ast").literal_eval({read})'
    )


# ---- executing


def _execute(content: Any, notebook: Path, timeout: float | None, secrets: Mapping[str, str]) -> tuple[int, str]:
    total = sum(cell.cell_type == "code" for cell in content.cells)
    done = 0

    def on_cell_end(cell: Any, cell_index: int, **_: Any) -> None:
        nonlocal done
        done += 1
        _draw(done, total)

    client = NotebookClient(
        content,
        timeout=timeout,
        kernel_name=content.metadata.get("kernelspec", {}).get("name", "python3"),
        resources={"metadata": {"path": str(notebook.resolve().parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        on_cell_executed=on_cell_end,
    )
    try:
        client.execute(env={**os.environ, **secrets, "AGENTKIT_NOTEBOOK": str(notebook.resolve())})
    except CellExecutionError as error:
        return _status(error.ename), f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        return FAILED, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return DONE, ""


def _draw(done: int, total: int) -> None:
    """A bar where somebody looks, else a line for each tenth."""
    filled = _BAR * done // max(1, total)
    bar = f"[{'█' * filled}{'·' * (_BAR - filled)}] {done}/{total} cells"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{bar}" + ("\n" if done == total else ""))
        sys.stderr.flush()
    elif done == total or done * 10 // total != (done - 1) * 10 // total:
        _tell(bar)


def _status(name: str) -> int:
    if name in _WAITING:
        return WAITS
    known = getattr(errors, name, None)
    budget = getattr(errors, _BUDGET, None)
    if name == _BUDGET or (isinstance(known, type) and isinstance(budget, type) and issubclass(known, budget)):
        return BUDGET
    return FAILED


def _wait_for_decision(notebook: Path) -> None:
    """Until what waits now has been decided, with `agentkit approvals decide` or in another notebook."""
    path = journal_path(notebook.resolve().parent, None)
    said = ""
    with Store.open(path, read_only=True) as store:
        while waiting := sorted(one.id for one in decisions.everything(store) if one.waits):
            text = f"waits for {', '.join(waiting)}: agentkit approvals decide ID --journal {path}"
            if text != said:
                _tell(text)
                said = text
            time.sleep(_POLL_SECONDS)
