"""A judge of made-up but consistent results that any executor can run: named by file in a worker's setup."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sousvit.errors import TrialError
from sousvit.objectives.objective import Measurement
from sousvit.search.budget import make_budget
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Verify
from sousvit.search.judging.gate import rejection
from sousvit.search.results import FinalTable, Row
from sousvit.search.trial import BaseRecord
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import BlockShape, VitShape

#: Written down and not read from a model: a worker that loads no torch starts in a second instead of five.
SHAPE = VitShape(
    image=(32, 32),
    channels=3,
    patch=(8, 8),
    embed_dim=48,
    num_prefix_tokens=1,
    num_position_tokens=1,
    num_classes=1000,
    num_classifiers=1,
    pool="token",
    other_params=1000,
    blocks=(BlockShape(heads=3, head_dim=16, mlp=192, tokens_in=17, tokens_mlp=17, width_params=6),) * 4,
    width_params=4,
)


class SimulatedJudge:
    """Cost from the shape, accuracy lost by compression and won back by training.

    ``SOUSVIT_TEST_SECONDS`` is slept in every job; a file ``kill-next`` in the run folder is taken away and ends the
    process at once, as a crash of the machine would. While there is a file ``disk-fault``, jobs fail as a quantizer
    that met the error of the number in it, and ``disk-fault-word`` as one that only says so.
    """

    def __init__(self, setup: dict[str, Any], progress: Any) -> None:
        self._folder = Path(setup["folder"])
        self._budget = make_budget(setup["budget"], self._folder)
        self._seconds = float(os.environ.get("SOUSVIT_TEST_SECONDS", "0"))

    def start(self, known: BaseRecord | None) -> BaseRecord:
        machine = {"cpu": "simulated", "cores": 1, "flags": [], "versions": {}}
        return known or BaseRecord(self._figures(Recipe(), 1.0), asdict(SHAPE), machine)

    def judge(self, job: Job) -> JobResult:
        time.sleep(self._seconds)
        self._die_if_told()
        self._fail_if_told()
        recipe = Recipe.from_dict(job.recipe)
        values = self._figures(recipe, job.fidelity)
        early = {name: value for name, value in values.items() if not name.startswith("accuracy")}
        message = rejection(early, self._budget.goals(), job.rivals)
        if message:
            return JobResult(job.attempt, "gated", early, {"gate": 1.0}, message)
        seconds = {"gate": 0.5, "recover": 10.0 * job.fidelity * recipe.trains}
        return JobResult(job.attempt, "complete", values, seconds, artifact=self._artifact(recipe.hash))

    def close(self) -> None:
        pass

    def verify(self, request: Verify) -> dict[str, Measurement]:
        return self._figures(Recipe.from_dict(request.recipe), request.fidelity)

    def make_table(self, request: MakeTable) -> FinalTable:
        values = self._figures(Recipe.from_dict(request.recipe), request.fidelity)
        return FinalTable((Row("recipe", request.recipe, values, self._artifact("recipe")),))

    def _artifact(self, name: str) -> str:
        folder = self._folder / "artifacts" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text(name)
        return name

    def _die_if_told(self) -> None:
        try:
            (self._folder / "kill-next").unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def _fail_if_told(self) -> None:
        number, words = self._folder / "disk-fault", self._folder / "disk-fault-word"
        if number.exists():
            code = int(number.read_text())
            try:
                raise OSError(code, os.strerror(code), "model.onnx")
            except OSError as error:
                raise TrialError("int8_dynamic failed") from error
        if words.exists():
            raise TrialError(f"int8_dynamic failed: RuntimeError: {words.read_text()}")

    def _figures(self, recipe: Recipe, fidelity: float) -> dict[str, Measurement]:
        small = recipe.reshape(SHAPE)
        cost = small.macs() / SHAPE.macs()
        names = [step.technique for step in recipe.steps]
        weight = 1.0 if "int8_dynamic" in names else 4.0
        size, base_size = small.params() * weight / 1e6, SHAPE.params() * 4.0 / 1e6
        epochs = sum(step.handler.epochs_of(step.config, cost) for step in recipe.steps)
        loss = 0.25 * (1 - cost) ** 2 + 0.02 * (weight < 4)
        drop = loss * 0.25 / (1 + 2 * fidelity) if epochs and fidelity else loss
        ratio = 0.1 + 0.9 * cost * (0.7 if "int8_dynamic" in names else 1.0)
        values = {
            "accuracy": 0.9 - drop, "accuracy_drop": drop, "latency": 10 * ratio, "latency_ratio": ratio,
            "size": size, "size_ratio": size / base_size, "params": small.params() / 1e6,
            "params_ratio": small.params() / SHAPE.params(), "macs": small.macs() / 1e6, "macs_ratio": cost,
        }  # fmt: skip
        return {name: Measurement(value) for name, value in values.items()}
