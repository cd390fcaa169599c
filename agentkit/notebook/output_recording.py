"""What a tool shows and prints while it works: kept with its step, so that a replay shows it again.

A record is data, and what it shows is not the program that ran: of one's own, HTML is shown sanitised; of somebody
else's, text and pictures alone. JavaScript, and what acts in its place, is shown by neither.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any, Final

import nh3

from agentkit.agent.markdown import neutralize
from agentkit.journal.execution import record_output, record_print, shorten
from agentkit.journal.provenance import origin
from agentkit.notebook import png
from agentkit.notebook.output import clean_terminal, show
from agentkit.runtime.session import Session

_TEXT: Final = 20_000
_PICTURES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
_DATA: Final = (
    "application/json",
    "application/geo+json",
    "application/vnd.dataresource+json",
)
"""What a front end draws as data: it holds no markup and nothing that is fetched."""
_ACTS: Final = ("\\href", "\\require", "\\class", "\\cssId", "\\style")
"""What a formula may do besides being one."""
_STYLES: Final = frozenset(
    "color background-color font-weight font-style font-size font-family text-align text-decoration vertical-align "
    "white-space width max-width min-width height max-height padding padding-left padding-right padding-top "
    "padding-bottom border border-left border-right border-top border-bottom border-collapse border-color opacity "
    "line-height".split()
)
_SPECIFIED: Final = ("application/vnd.vega.", "application/vnd.vegalite.", "application/vnd.plotly.")


def keep(shell: Any, session: Session) -> None:
    """Let the shell's display go through the journal, and replayed outputs back to the shell."""
    session.show = _replay
    for name in ("stdout", "stderr"):
        _keep_prints(name, getattr(sys, name))
    publisher = shell.display_pub
    if getattr(publisher.publish, "__module__", "") == __name__:
        return
    publish = publisher.publish

    def publish_and_keep(data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("update"):
            record_output({mime: plain(value) for mime, value in data.items()})
        return publish(data, *args, **kwargs)

    publisher.publish = publish_and_keep


def _keep_prints(name: str, stream: Any) -> None:
    """Let a tool's prints go to its step. A kernel would put those of its thread under whichever cell ran last.

    The method is replaced and not the stream: log handlers hold the stream itself. A terminal's cannot be, and a
    terminal needs none of it.
    """
    write = getattr(stream, "write", None)
    if not hasattr(stream, "session") or getattr(write, "__module__", "") == __name__:
        return

    def write_or_keep(text: Any) -> int | None:
        if isinstance(text, str) and record_print(name, text):
            return len(text)
        return write(text)  # type: ignore[no-any-return,misc]

    stream.write = write_or_keep


def plain(value: Any) -> Any:
    """A MIME value as JSON: pictures as base64, as the notebook file holds them."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _replay(bundle: dict[str, Any], source: str) -> None:
    shown = of_somebody(bundle, source) if source else of_this_user(bundle)
    if shown:
        show(shown, raw=True)


def of_this_user(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shown again of what this user's own tools showed."""
    shown: dict[str, Any] = {}
    for mime, value in bundle.items():
        match mime:
            case "text/plain":
                shown[mime] = clean_terminal(str(value))
            case "text/markdown":
                shown[mime] = neutralize(str(value))
            case "text/html":
                shown[mime] = sanitize(str(value))
            case "image/svg+xml":
                # Inside a picture nothing is run and nothing is fetched.
                drawn = base64.b64encode(str(value).encode()).decode()
                shown.setdefault("text/html", f'<img src="data:image/svg+xml;base64,{drawn}">')
            case _ if mime in _PICTURES and _is_base64(value):
                shown[mime] = value
            case "text/latex" if not any(word in str(value) for word in _ACTS):
                shown[mime] = str(value)
            case _ if mime in _DATA or (mime.startswith(_SPECIFIED) and mime.endswith("+json")):
                shown[mime] = value
    if bundle and not shown:
        shown["text/plain"] = f"[agentkit] not shown again: {', '.join(sorted(bundle))[:200]}"
    return shown


def of_somebody(bundle: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What may be shown of what somebody else's record says was shown: text, and pictures made anew."""
    where = f"[agentkit] shown {clean_terminal(origin(source))}"
    picture = bundle.get("image/png")
    if isinstance(picture, str) and (made := _rewrite_picture(picture)) is not None:
        return {"image/png": made, "text/plain": where}
    text = bundle.get("text/plain")
    if not isinstance(text, str) or not text.strip() or text.startswith("<IPython."):
        text = _text_of(bundle)
    if not text.strip():
        text = f"not shown: {', '.join(sorted(map(str, bundle)))[:200]}"
    return {"text/plain": f"{where}\n{clean_terminal(shorten(text, _TEXT))}"}


def sanitize(html: str) -> str:
    """HTML without what acts, fetches or covers the page: tables, text and inline pictures stay as they are."""
    attributes = deepcopy(nh3.ALLOWED_ATTRIBUTES)
    attributes["*"] = {"style", "title", "colspan", "rowspan", "align", "scope"}
    for tag in ("img", "a"):
        attributes.setdefault(tag, set())
    attributes["img"] |= {"src", "alt", "width", "height"}
    attributes["table"] = attributes.get("table", set()) | {"border", "class"}
    return nh3.clean(
        html,
        tags=set(nh3.ALLOWED_TAGS) - {"area", "map"},
        clean_content_tags={"script", "style"},
        attributes=attributes,
        attribute_filter=_safe_attribute,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative="deny",
        filter_style_properties=_STYLES,
    )


def _safe_attribute(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "src":
        return value if value.startswith(tuple(f"data:{mime};base64," for mime in _PICTURES)) else None
    if attribute == "href":
        return value if value.startswith(("http://", "https://", "mailto:")) else None
    if attribute == "style" and ("url" in value.lower() or "\\" in value):
        return None
    if attribute == "class":
        return "dataframe" if "dataframe" in value.split() else None
    return value


def _is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(base64.b64decode(value, validate=False))
    except binascii.Error:
        return False


def _rewrite_picture(picture: str) -> str | None:
    try:
        return base64.b64encode(png.rewrite(base64.b64decode(picture))).decode()
    except (binascii.Error, png.NotAPicture):
        return None


def _text_of(bundle: Mapping[str, Any]) -> str:
    """The words of what was not shown as text."""
    markup = bundle.get("text/markdown") or bundle.get("text/html")
    if not isinstance(markup, str):
        return ""
    words = _Words()
    words.feed(markup[: 4 * _TEXT])
    return " ".join("".join(words.found).split())


class _Words(HTMLParser):
    """Collects the text of HTML, without its programs and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        self.found.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        self.found.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)
