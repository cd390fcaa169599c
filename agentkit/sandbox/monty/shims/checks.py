"""What is put in the place of builtins that answer otherwise in Monty: exact, or an error."""

from typing import Any

_round = round


def lost(format: Any) -> Any:
    """What is wrong with a format of strptime, which would lose the time or fail where Python does not; or None."""
    letters: list[Any] = []
    escaped = False
    for char in format:
        if escaped:
            letters.append(char)
        escaped = char == "%" and not escaped
    strange = [letter for letter in letters if letter not in "YymbBdHIMSfpzaAj%"]
    if strange:
        return f"strptime does not read %{strange[0]} in the sandbox"
    month = "m" in letters or "b" in letters or "B" in letters
    if not ("Y" in letters or "y" in letters) or not ("j" in letters or ("d" in letters and month)):
        return "strptime reads whole dates only in the sandbox"
    if not [letter for letter in letters if letter in "HIMSfp"]:
        return None
    hour = "H" in letters or ("I" in letters and "p" in letters)
    if not hour or "M" not in letters or ("f" in letters and "S" not in letters):
        return "strptime would lose the time: the sandbox needs hour and minute together"
    return None


def checked(format: Any) -> Any:
    fault = lost(format)
    if fault is not None:
        raise ValueError(f"{fault}, {format!r}")
    return format


def rounded(number: Any, ndigits: Any = None) -> Any:
    if ndigits is None:
        return _round(number)
    if not isinstance(number, float) or number - number != 0:
        return _round(number, ndigits)
    if ndigits < 0:
        raise ValueError("round: a float is rounded to 0 or more digits in the sandbox; write round(int(x), -2)")
    return float(f"{number:.{min(ndigits, 400)}f}")
