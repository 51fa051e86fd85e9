"""optuna-dashboard on a run's study: a page on this machine that follows the search and writes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sousvit.errors import UserError
from sousvit.search.proposers.study_file import STUDY_FILE
from sousvit.search.stored.lines import Lines

HOST = "127.0.0.1"


class _ReadOnly(JournalFileBackend):
    """A study that only its search writes: what is typed into the dashboard is refused, not lost in silence."""

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        raise OSError("only the search writes its study")


def open_study(folder: Path) -> JournalStorage:
    """A run's study, to be read while the search goes on.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise UserError("a dashboard shows a run's study", f"no {path}", "begin the search, or resume it")
    lines = Lines(path)
    for _ in lines:
        pass
    if lines.damage:
        what = "; ".join(lines.damage)
        raise UserError(
            "a study is as the search wrote it", f"{path}, {what}", "resume the run's search, see sousvit resume"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return JournalStorage(_ReadOnly(str(path)))


def serve(folder: Path, port: int) -> None:
    """Serve the dashboard of a run until it is interrupted.

    Raises:
        UserError: optuna-dashboard is not installed, the run has no study, or the port is taken.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        rule = "sousvit dashboard needs optuna-dashboard"
        raise UserError(rule, str(error), "pip install 'sousvit[dashboard]'") from error
    storage = open_study(folder)
    try:
        run_server(storage, host=HOST, port=port)
    except OSError as error:
        raise UserError(
            "the dashboard's port must be free", f"{port}: {error.strerror}", "choose another --port"
        ) from error
