"""Ray's workers: a supervisor beside the judging process, and the trainable that Ray Tune starts.

The judging process is the local executor's: its crashes, hangs and memory are looked after in the same way, whatever
machine it runs on. Where a worker does not see the driver's run folder, it works in a folder of its own and passes
artifacts and cache entries on through the shared storage, by content.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray import tune

from sousvit.errors import UserError
from sousvit.faults import faults_told
from sousvit.search.executors.executor import Job, JobResult, Request, Start
from sousvit.search.executors.local import LocalExecutor
from sousvit.search.judging.worker import serve
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord, decode, encode
from sousvit.store import Store

#: Names in the results that Ray Tune passes on.
JOB_RESULT, CORE_SECONDS, USER_ERROR = "job_result", "core_seconds", "user_error"
#: Written by the driver into its run folder, so that a worker knows whether it sees the same one.
MARK = "ray-run"
#: Ends an attempt's name where the same worker goes on to the next rung.
NEXT_RUNG = "+"


def to_text(result: JobResult) -> str:
    """A result as JSON."""
    return json.dumps({**asdict(result), "values": encode(result.values)})


def from_text(text: str) -> JobResult:
    """The inverse of :func:`to_text`."""
    plain = json.loads(text)
    return JobResult(**{**plain, "values": decode(plain["values"])})


class Supervisor:
    """Keeps one judging process on this node.

    Args:
        setup: as for :func:`.serve`, with the driver's ``folder``, its ``mark`` and ``memory``
            (bytes, or None for a share of the node's).
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._artifacts: Path | None = None
        self._store: Store | None = None
        self._executor: LocalExecutor | None = None

    def start(self, base: BaseRecord | None) -> BaseRecord:
        """Start the judging process and return the base's figures (measured now, unless they are known).

        Raises:
            UserError: the model or the data is bad, or nothing is shared with the driver.
        """
        if self._executor is None:
            os.environ.update(self._setup.get("environment", {}))  # tokens; the judging process inherits them
            folder, storage = self._place()
            worker = {**self._setup, "folder": str(folder), "storage": storage}
            self._executor = LocalExecutor(serve, worker, self._setup["memory"])
            base = self._executor.start(base)
        assert base is not None
        return base

    def _place(self) -> tuple[Path, str | None]:
        """Where to work: the driver's folder where this node sees it, else one of its own beside the shared storage."""
        folder, storage = Path(self._setup["folder"]), self._setup["storage"]
        if _sees(folder, self._setup["mark"]):
            return folder, None
        if storage is None:
            raise UserError(
                "every worker must see the run folder, or ray.storage must be set",
                f"{platform.node()} does not see {folder}",
                "use a --runs folder on a shared path, or ray: {storage: s3://...} in the budget",
            )
        folder = Path(tempfile.gettempdir()) / f"sousvit-{os.getuid()}" / self._setup["mark"]
        self._artifacts, self._store = folder / "artifacts", Store(storage)
        return folder, storage

    def run(self, job: Job) -> JobResult:
        """Judge a job; its artifact is in the shared storage afterwards, where there is one."""
        assert self._executor is not None
        result = self._executor.run(job)
        self._pass_on(result.artifact)
        return result

    def call(self, request: Request[Any]) -> Any:
        """Answer a request that is no job; the artifacts of a table are in the shared storage afterwards."""
        if isinstance(request, Start):
            return self.start(request.known)
        assert self._executor is not None
        answer = self._executor.call(request)
        for row in answer.rows if isinstance(answer, FinalTable) else ():
            self._pass_on(row.artifact)
        return answer

    def core_seconds(self) -> float:
        """CPU time of the judging process."""
        return 0.0 if self._executor is None else self._executor.core_seconds()

    def close(self) -> None:
        """Stop the judging process."""
        if self._executor is not None:
            self._executor.close()

    def _pass_on(self, artifact: str) -> None:
        if self._store is not None and self._artifacts is not None and artifact:
            self._store.put_folder(f"artifacts/{artifact}", self._artifacts / artifact)


def _sees(folder: Path, mark: str) -> bool:
    path = folder / MARK
    return path.is_file() and path.read_text() == mark


class JudgeTrainable(tune.Trainable):
    """One Tune trial: a job, and the same recipe's next rung where the scheduler lets it go on."""

    def setup(self, config: dict[str, Any], setup: dict[str, Any], base: BaseRecord) -> None:
        self._supervisor, self._base = Supervisor(setup), base
        self._spent = 0.0
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another job; the loaded model, data and teacher stay."""
        plain = json.loads(new_config["job"])
        self._job = Job(**{**plain, "rivals": tuple(plain["rivals"])})
        self._rungs: list[float] = json.loads(new_config["rungs"])
        return True

    def step(self) -> dict[str, Any]:
        """Judge at this rung; the trial ends unless there is a higher one."""
        try:
            with faults_told():
                self._supervisor.start(self._base)
                result = self._supervisor.run(self._job)
        except UserError as error:  # not this trial's fault: no retry would help
            return {USER_ERROR: json.dumps([error.rule, str(error.received), error.action]), "done": True}
        higher = [rung for rung in self._rungs if rung > self._job.fidelity]
        if higher:
            self._job = replace(self._job, fidelity=higher[0], attempt=self._job.attempt + NEXT_RUNG)
        spent, self._spent = self._spent, self._supervisor.core_seconds()
        is_last = not higher or result.status != "complete"
        return {JOB_RESULT: to_text(result), CORE_SECONDS: self._spent - spent, "done": is_last}

    def cleanup(self) -> None:
        """Stop the judging process."""
        self._supervisor.close()
