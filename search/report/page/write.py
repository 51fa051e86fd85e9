"""A report written to a file: ``html`` to send around, ``md``, ``json`` for programs, ``png`` of the front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sousvit.errors import UnknownNameError
from sousvit.files import write_atomic
from sousvit.search.report.page.content import Content
from sousvit.search.report.page.gather import gather
from sousvit.search.report.page.markdown import markdown
from sousvit.search.report.page.picture import picture
from sousvit.search.report.page.render import render

FORMATS: dict[str, Callable[[Content], str | bytes]] = {
    "html": render,
    "md": markdown,
    "json": lambda content: json.dumps(content.to_dict(), indent=1, allow_nan=False) + "\n",
    "png": picture,
}


def write_report(folder: Path, out: Path | None = None, form: str | None = None, with_images: bool = True) -> Path:
    """Write a run's report and return its path.

    Args:
        out: where; by default ``report.html`` (or ``.md``, ``.json``, ``.png``) in the run's folder.
        form: one of :data:`FORMATS`; by default what the ending of ``out`` says, else ``html``.
        with_images: show images of the data, where the run keeps some.

    Raises:
        UserError: no run there, nothing finished in it, or there is no such format.
    """
    ending = "" if out is None else out.suffix.removeprefix(".").lower()
    form = form or (ending if ending in FORMATS else "html")
    if form not in FORMATS:
        raise UnknownNameError("format of a report", form, FORMATS)
    target = out or folder / f"report.{form}"
    write_atomic(target, FORMATS[form](gather(folder, with_images)))
    return target
