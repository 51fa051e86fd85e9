"""The Ray executor: the same engine, its jobs run through ``ray.tune.Tuner`` on a laptop's cores or on a cluster.

Ray Tune runs and watches, the engine decides: a thin searcher passes its jobs on, a thin scheduler asks it, with the
same fidelity policy as everywhere, whether a trial that ends a rung goes on to the next one on the spot. Both live in
the driver, which stays the one writer of study and archive; a search that is started again reconciles with the archive,
so nothing of Tune's own state is needed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sousvit.errors import TrialError, UserError
from sousvit.faults import fault_behind, faults_told
from sousvit.files import write_atomic
from sousvit.objectives.targets.target import ON_RAY
from sousvit.search.budget import RayOptions
from sousvit.search.executors.executor import Executor, G, Job, JobResult, JobSource, Request, Start
from sousvit.search.executors.ray.device import place
from sousvit.search.executors.ray.worker import (
    CORE_SECONDS,
    JOB_RESULT,
    MARK,
    NEXT_RUNG,
    USER_ERROR,
    JudgeTrainable,
    Supervisor,
    from_text,
)
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord
from sousvit.store import Store

if TYPE_CHECKING:
    from sousvit.search.budget import Budget

#: A cluster of the search's own, on this machine.
LOCAL = "local"
#: Seconds for a cluster's port to accept a connection; Ray itself tries for minutes.
CONNECT_SECONDS = 5.0
#: Seconds before a lost worker is replaced.
NOTICE_SECONDS = 5.0
#: Seconds for a device's agent to stop.
CLOSE_SECONDS = 15.0
#: Ray Tune's own files of a trial say nothing that the archive does not.
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Port:
    """What searcher and scheduler share: the engine, Tune's trials by name, and the first error to pass on.

    Args:
        source: gives jobs and takes results.
        capacity: tells how many jobs may run at once now.
        finish: fetches what a job left on another machine.
        folder: the run folder.
    """

    def __init__(self, source: JobSource, capacity: Any, finish: Any, folder: Path) -> None:
        self._source, self._capacity, self._finish, self._folder = source, capacity, finish, folder
        self._jobs: dict[str, Job] = {}
        self.error: BaseException | None = None
        self.core_seconds = 0.0

    def next_config(self, trial_id: str) -> dict[str, Any] | str | None:
        """A new Tune trial's configuration; None to be asked again; FINISHED when nothing is left."""
        if self.error is not None:
            return str(Searcher.FINISHED)
        if len(self._jobs) >= self._capacity():
            with self._kept():
                self._source.prepare()
            return None
        with self._kept():
            job = self._source.next_job()
            if job is not None:
                self._jobs[trial_id] = job
                return {"job": json.dumps(asdict(job)), "rungs": json.dumps(self._source.rungs_of(job))}
        return None if self._jobs else str(Searcher.FINISHED)

    def take(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take a rung's result; whether the trial goes on to the next rung at once."""
        job = self._jobs.get(trial_id)
        if job is None:
            return False
        if USER_ERROR in result:
            self.error = self.error or UserError(*json.loads(result[USER_ERROR]))
            self._jobs.pop(trial_id, None)  # a search that is taken up again judges it
            return False
        self.core_seconds += float(result.get(CORE_SECONDS, 0.0))
        job_result = from_text(result[JOB_RESULT])
        if job_result.attempt != job.attempt:
            return True  # its worker was lost at a higher rung, and Ray began the trial anew
        del self._jobs[trial_id]
        with self._kept():
            self._finish(job_result)
            self._source.take(job_result)
            following = None if result.get("done") else self._source.continue_with(job, job.attempt + NEXT_RUNG)
            if following is not None:
                self._jobs[trial_id] = following
        return trial_id in self._jobs

    def lose(self, trial_id: str, why: Callable[[], BaseException | None] = lambda: None) -> None:
        """A trial that Ray could not finish, after all its retries; the engine may try it once more elsewhere.

        A search that is ending, or a machine with a fault, leaves it to the search that is taken up again.
        """
        job = self._jobs.pop(trial_id, None)
        if job is not None and self.error is None:
            with self._kept():
                message = "Ray lost its worker, also when it tried again"
                fault = fault_behind(why() or RuntimeError(message), self._folder)
                if fault is not None:
                    raise fault
                time.sleep(NOTICE_SECONDS)  # Ray's retries come at once, and may all meet a node that is going
                self._source.take(JobResult(job.attempt, "failed", message=message, lost=True))

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for the driver: raised inside Tune's loop, it would leave workers behind."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self.error = self.error or error


class EngineSearcher(Searcher):
    """Passes the engine's jobs on; constraints and rungs are the engine's, so nothing low-rung is told as final."""

    def __init__(self, port: Port) -> None:
        super().__init__(metric="training_iteration", mode="max")
        self._port = port

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._port.next_config(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has taken a result already; without one, the trial is lost."""
        self._port.lose(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The archive holds everything; Tune asks for a file."""
        Path(checkpoint_path).write_text("see events.jsonl\n")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to read: the engine was reconciled with the archive before."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()  # Tune pickles its configuration for Tuner.restore, which is not how a search resumes


class RungScheduler(FIFOScheduler):
    """Lets a trial go on to its next rung where the engine's fidelity policy would promote it next; else stops it."""

    def __init__(self, port: Port) -> None:
        super().__init__()
        self._port = port

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._port.take(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._port.take(trial.trial_id, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._port.lose(trial.trial_id, trial.get_error)

    def __reduce__(self) -> tuple[Any, ...]:
        return FIFOScheduler, ()


class RayExecutor(Executor):
    """Runs jobs through Ray Tune.

    Args:
        budget: its ``ray`` section says which cluster and what a trial needs.
        folder: the run folder.
        judge: another class than :class:`sousvit.search.judging.judge.Judge` (``file.py:Class``).
    """

    def __init__(self, budget: Budget, folder: Path, judge: str | None = None) -> None:
        self._options = budget.ray or RayOptions()
        self._folder = folder.resolve()
        self._mark = uuid.uuid4().hex
        memory = budget.search.trial_memory_gb
        self._setup: dict[str, Any] = {
            "budget": budget.model_dump(mode="json"),
            "folder": str(self._folder),
            "mark": self._mark,
            "storage": self._options.storage,
            "judge": judge,
            "cores": max(1, int(self._options.cpus)),
            "memory": None if memory is None else memory * 1e9,
        }
        self._store = None if self._options.storage is None else Store(self._options.storage)
        self._base: BaseRecord | None = None
        self._targets, self._nodes = budget.targets, list[Any]()
        self._caller: Any = None
        self._started_here = False
        self._core_seconds = 0.0

    def start(self, known: BaseRecord | None) -> BaseRecord:
        os.environ.update(_QUIET)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        write_atomic(self._folder / MARK, self._mark)
        self._connect()
        self._place_devices()
        self._base = self._ask(Start(known))
        return self._base

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        # Left to itself, Ray joins the last cluster started on this machine: maybe another search's, gone with it.
        address = self._options.address or os.environ.get("RAY_ADDRESS") or LOCAL
        if address.startswith("ray://"):
            raise UserError(
                "the driver of a search runs inside the cluster",
                address,
                "use ray: {address: auto} on a node of it, or ray job submit (see examples/cluster)",
            )
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            options |= {"include_dashboard": False}
        try:
            _knock(address)
            ray.init(address=address, **options)
        except Exception as error:  # Ray raises plain ones too, for instance of a node that starts too slowly
            said = (str(error) or type(error).__name__).splitlines()[0]
            token = "" if address == LOCAL else " (RAY_AUTH_MODE and the token must be those of its head)"
            raise UserError("the Ray cluster must answer", address, said + token) from error
        self._started_here = True

    def _place_devices(self) -> None:
        """Start the agents on device nodes, and tell the workers how to reach them."""
        self._setup["environment"] = {}
        for target, plain in zip(self._targets, self._setup["budget"]["targets"], strict=True):
            if target.agent == ON_RAY:
                node, reaching, environment = place(target)
                self._nodes.append(node)
                plain.update(reaching)
                self._setup["environment"] |= environment

    def drive(self, source: JobSource) -> None:
        """Run the engine's jobs as Tune trials until nothing is left."""
        self._release()
        port = Port(source, self.slots, self._fetch, self._folder)
        options = self._options
        trainable = tune.with_resources(
            tune.with_parameters(JudgeTrainable, setup=self._setup, base=self._base), self._resources()
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=EngineSearcher(port),
                scheduler=RungScheduler(port),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=self._mark,
                storage_path=str(self._folder / "ray"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                verbose=0,
            ),
        )
        try:
            with _main_thread_signals(), faults_told(self._folder):
                tuner.fit()
        finally:
            self._core_seconds += port.core_seconds
        if port.error is not None:
            raise port.error

    def _resources(self) -> dict[str, float]:
        options = self._options
        gpus = {"GPU": options.gpus} if options.gpus else {}
        return {"CPU": options.cpus, **gpus, **options.resources}

    def slots(self) -> int:
        """Trials that fit the cluster's nodes now; a node that joins late counts from then on."""
        wanted = self._resources()
        fit = 0
        for node in ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                fit += math.floor(min(there.get(name, 0.0) / amount for name, amount in wanted.items() if amount > 0))
        return max(1, fit if self._options.workers is None else min(fit, self._options.workers))

    def _fetch(self, result: JobResult) -> None:
        self._fetch_artifact(result.artifact)

    def _fetch_artifact(self, name: str) -> None:
        here = self._folder / "artifacts" / name
        if self._store is not None and name and not here.is_dir():
            self._store.get_folder(f"artifacts/{name}", here)

    def call(self, request: Request[G]) -> G:
        answer = self._ask(request)
        for row in answer.rows if isinstance(answer, FinalTable) else ():
            self._fetch_artifact(row.artifact)
        return answer

    def _ask(self, request: Request[G]) -> G:
        """Ask the worker that measures base and answer; one whose node is lost makes way for another."""
        for attempt in range(self._options.max_failures + 1):
            try:
                return self._ask_once(request)
            except (ray.exceptions.RayActorError, ray.exceptions.ActorUnavailableError) as error:
                self._caller = None
                time.sleep(NOTICE_SECONDS)  # until the cluster knows that the node is gone
                if attempt == self._options.max_failures:
                    said = str(error).splitlines()[0]
                    raise TrialError(f"{request.doing}: the Ray worker was lost: {said}") from error
        raise AssertionError("unreachable")

    def _ask_once(self, request: Request[G]) -> G:
        """The worker holds a trial's resources while it is needed."""
        try:
            if self._caller is None:
                wanted = self._resources()
                extra = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU")}
                actor = ray.remote(num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0), resources=extra)(Supervisor)
                self._caller = actor.remote(self._setup)
                if not isinstance(request, Start):
                    ray.get(self._caller.call.remote(Start(self._base)))
            answer: G = ray.get(self._caller.call.remote(request))
            return answer
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | TrialError):
                raise error.cause from error
            with faults_told(self._folder):
                raise TrialError(f"{request.doing}: {error.cause}") from error

    def core_seconds(self) -> float:
        return self._core_seconds

    def _release(self) -> None:
        """Give the caller's resources back to the trials."""
        if self._caller is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # its node may be gone
                self._core_seconds += ray.get(self._caller.core_seconds.remote())
                ray.get(self._caller.close.remote())
                ray.kill(self._caller)
            self._caller = None

    def close(self) -> None:
        self._release()
        for node in self._nodes:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(node.close.remote(), timeout=CLOSE_SECONDS)
                ray.kill(node)
        self._nodes.clear()
        if self._started_here:
            ray.shutdown()
            self._started_here = False


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at a ``host:port``, which Ray itself would take minutes to find."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


@contextlib.contextmanager
def _main_thread_signals() -> Iterator[None]:
    """Tune replaces signal handlers in the main thread; ours come back."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
