"""The page: one HTML file without anything from outside, under a policy that lets only its own script and style run."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from sousvit.search.report.page.bars import block_table, latency_bars, sensitivity_bars, waterfall
from sousvit.search.report.page.content import WHOLE, Content

HERE = Path(__file__).parent


@cache
def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def render(content: Content, version: str = "") -> str:
    """A report as HTML; everything in it is escaped.

    Args:
        version: of a page that asks its server for another one (``sousvit watch``).
    """
    return page(
        "page.html.j2",
        bool(version),
        {"content": content.to_dict(), "live": version},
        c=content,
        faster=waterfall(content.parts, content.saved_all, "faster"),
        smaller=waterfall(content.parts, content.saved_all, "smaller"),
        latency_bars=latency_bars(content.latencies),
        sensitivity_bars=sensitivity_bars(content),
        whole_cuts=[cut for cut in content.cuts if cut.part == WHOLE],
        blocks=block_table(content.cuts),
    )


def waiting(name: str, version: str) -> str:
    """The live page of a run that has nothing to show yet."""
    return page("waiting.html.j2", True, {"live": version}, name=name)


def page(template: str, live: bool, data: dict[str, Any], **shown: Any) -> str:
    """One of our templates with the shared style and script.

    Args:
        live: it may ask the server that it came from.
        data: what the script reads.
        shown: names in the template.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True
    )
    style, script = _own("page.css"), _own("page.js")
    text = environment.get_template(template).render(
        style=style, script=script, data=script_data(data), policy=_policy(style, script, live), live=live, **shown
    )
    return text + "\n"


def script_data(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _policy(style: str, script: str, live: bool) -> str:
    parts = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join([*parts, *["connect-src 'self'"] * live])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
