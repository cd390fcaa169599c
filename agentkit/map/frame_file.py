"""The file that a map's result is written to: checked before anything is paid, whole or not there at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import cast

import pandas

from agentkit.errors import UserError
from agentkit.map.table import Table, import_pyarrow

SUFFIXES = (".parquet", ".csv", ".jsonl")


def check_out(out: str | Path, table: Table | None = None) -> Path:
    """Return the path that `out` names; raise UserError where a frame could not be written there."""
    path = Path(out).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"out={out} ends in none of {', '.join(SUFFIXES)}: give one of them")
    if path.suffix.lower() == ".parquet":
        import_pyarrow()
    if path.is_dir():
        raise UserError(f"out={out} is a folder: give a file in it")
    path = path.resolve()
    if table is not None and table.path is not None and table.path.resolve() == path:
        raise UserError(f"out={out} is the file that {table.name} is read from: give another name")
    if not path.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {path.parent}: make it first")
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {path.parent}: {error.strerror}") from error
    return path


def write(frame: pandas.DataFrame, out: str | Path) -> Path:
    """Write `frame` and return its path. A file of that name stays as it was until the new one is whole on disk.

    An index that is more than 0, 1, 2, … is written too: in parquet as pandas does, else as columns before the others.
    Raise UserError where it cannot be written; the frame is not touched.
    """
    path = check_out(out)
    forming = _beside(path)
    try:
        _write(frame, forming, path.suffix.lower())
        _sync(forming)
        os.replace(forming, path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), "")
        raise UserError(
            f"out={out} was not written: {reason}; the frame is still in hand: make room, or write it elsewhere, "
            "for instance with result.frame.to_parquet(…)"
        ) from error
    finally:
        forming.unlink(missing_ok=True)
    return path


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.forming")


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _write(frame: pandas.DataFrame, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        _write_parquet(frame, path)
        return
    flat = frame if _is_default(frame.index) else _with_index_columns(frame)
    if suffix == ".csv":
        flat.assign(**_date_texts(flat)).to_csv(path, index=False, compression=None)
    else:
        flat.to_json(
            path, orient="records", lines=True, force_ascii=False, date_format="iso", date_unit="us", compression=None
        )


def _date_texts(frame: pandas.DataFrame) -> dict[str, pandas.Series]:
    """The columns of dates as text, each in one form.

    pandas writes a frame in chunks, and leaves the time out in those where every date is at midnight.
    """
    texts: dict[str, pandas.Series] = {}
    for name, column in frame.items():
        if pandas.api.types.is_datetime64_any_dtype(column.dtype):
            known = column.dropna()
            zone = "%z" if column.dt.tz is not None else ""
            form = "%Y-%m-%d" if bool((known == known.dt.normalize()).all()) and not zone else "%Y-%m-%dT%H:%M:%S"
            fraction = ".%f" if bool((known.dt.microsecond != 0).any()) else ""
            texts[str(name)] = column.dt.strftime(form + fraction + zone)
    return texts


def _write_parquet(frame: pandas.DataFrame, path: Path) -> None:
    pyarrow = import_pyarrow()
    named = frame.set_axis(_distinct_names(frame), axis="index") if not _is_default(frame.index) else frame
    try:
        named.to_parquet(path, engine="pyarrow")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
        # Labels of several kinds, and those that Arrow does not know, are kept as their text.
        named.set_axis(_as_text(named.index), axis="index").to_parquet(path, engine="pyarrow")


def _is_default(index: pandas.Index) -> bool:
    return isinstance(index, pandas.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None


def _distinct_names(frame: pandas.DataFrame) -> pandas.Index:
    """The index, with another name for a level that is called as a column is."""
    taken = {str(name) for name in frame.columns}
    names: list[str | None] = []
    for name in frame.index.names:
        chosen = None if name is None else str(name)
        while chosen in taken:
            chosen = f"index_{chosen}"
        names.append(chosen)
        taken |= {chosen} if chosen is not None else set()
    return frame.index.set_names(names)


def _with_index_columns(frame: pandas.DataFrame) -> pandas.DataFrame:
    return frame.set_axis(_distinct_names(frame), axis="index").reset_index()


def _as_text(index: pandas.Index) -> pandas.Index:
    if not isinstance(index, pandas.MultiIndex):
        return index.map(str)
    levels = [index.get_level_values(level).map(str) for level in range(index.nlevels)]
    return cast(pandas.Index, pandas.MultiIndex.from_arrays(levels, names=index.names))
