"""A made-up but consistent world in which a search takes a fraction of a second: figures, a judge, a whole search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Verify
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.judging.gate import rejection
from sousvit.search.results import Answer, FinalTable, Row
from sousvit.search.run import search
from sousvit.search.trial import BaseRecord
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import read_space

BASE_ACCURACY = 0.9
BYTES = {"int8_dynamic": 1.0, "ptq_int8": 1.0, "weight_only": 0.6, "bf16": 4.0}


def tiny_shape() -> VitShape:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=10
    )
    return vit_shape(model)


def figures(recipe: Recipe, shape: VitShape, fidelity: float) -> dict[str, Measurement]:
    """Smooth made-up results: cost from the shape, accuracy lost by compression and won back by training."""
    small = recipe.reshape(shape)
    cost = small.macs() / shape.macs()
    names = [step.technique for step in recipe.steps]
    weight = BYTES.get(names[-1], 4.0) if names else 4.0
    size = small.params() * weight / 1e6
    base_size = shape.params() * 4.0 / 1e6
    epochs = sum(step.handler.epochs_of(step.config, cost) for step in recipe.steps)
    loss = 0.25 * (1 - cost) ** 2 + 0.02 * (weight < 4)
    drop = loss * 0.25 / (1 + 2 * fidelity) if epochs and fidelity else loss
    ratio = 0.1 + 0.9 * cost * (0.7 if "int8_dynamic" in names else 1.0)
    values = {
        "accuracy": BASE_ACCURACY - drop,
        "accuracy_drop": drop,
        "latency": 10 * ratio,
        "latency_ratio": ratio,
        "size": size,
        "size_ratio": size / base_size,
        "params": small.params() / 1e6,
        "params_ratio": small.params() / shape.params(),
        "macs": small.macs() / 1e6,
        "macs_ratio": cost,
        "eer": (cost + size / base_size) / 2,
    }
    return {name: Measurement(value) for name, value in values.items()}


def base_record(shape: VitShape) -> BaseRecord:
    return BaseRecord(
        figures(Recipe(), shape, 1.0), asdict(shape), {"cpu": "simulated", "cores": 1, "flags": [], "versions": {}}
    )


ON_ARTIFACT = ("latency", "latency_ratio", "size", "size_ratio", "params", "params_ratio", "macs", "macs_ratio")


@dataclass
class Simulation:
    """Judges jobs by :func:`figures`; ``trouble`` may answer a job otherwise (crash, NaN...); ``seconds`` train."""

    shape: VitShape
    budget: Budget
    trouble: Callable[[Job], JobResult | None] = lambda job: None
    seconds: float = 10.0

    def judge(self, job: Job) -> JobResult:
        special = self.trouble(job)
        if special is not None:
            return special
        recipe = Recipe.from_dict(job.recipe)
        values = figures(recipe, self.shape, job.fidelity)
        seconds = {"gate": 0.5, "recover": self.seconds * job.fidelity * recipe.trains}
        early = {name: values[name] for name in ON_ARTIFACT}
        message = rejection(early, self.budget.goals(), job.rivals)
        if message:
            return JobResult(job.attempt, "gated", early, {"gate": 0.5}, message)
        return JobResult(job.attempt, "complete", values, seconds, artifact="none")


def simulated_search(shape: VitShape, folder: Path, **changes: Any) -> tuple[Answer, list[str]]:
    """A whole search in ``folder``, as a user starts or resumes it: its answer, and what it said."""
    told = _Told()
    budget = simulated_budget(**changes)
    clock = SimulatedClock()

    def make(asked: Budget, place: Path) -> SimulatedExecutor:
        answers = {Verify: lambda request: _figures_of(request.recipe, shape),
                   MakeTable: lambda request: _table_of(request, shape)}  # fmt: skip
        return SimulatedExecutor(base_record(shape), Simulation(shape, asked).judge, clock, answers)

    return search(budget, folder, make, told, clock), told.lines


class _Told(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)


def _figures_of(recipe: dict[str, Any], shape: VitShape) -> dict[str, Measurement]:
    return figures(Recipe.from_dict(recipe), shape, 1.0)


def _table_of(request: MakeTable, shape: VitShape) -> FinalTable:
    base = Row("base", Recipe().to_dict(), figures(Recipe(), shape, 1.0), "base")
    return FinalTable((base, Row("recipe", request.recipe, _figures_of(request.recipe, shape), "recipe")))


def without_students() -> dict[str, Any]:
    """The default space as far as :func:`figures` are made for it: their accuracy follows from what is cut."""
    space = read_space("default")
    return {**space, "techniques": {name: one for name, one in space["techniques"].items() if name != "student"}}


def simulated_budget(**changes: Any) -> Budget:
    rungs = {"explore_fidelity": 0.25, "explore_share": 0.6}
    search = {"trials": 40, "seed": 0, "proposer": "tpe", **rungs, **changes.pop("search", {})}
    values: dict[str, Any] = {
        "model": {"name": "vit_tiny_patch16_224"},
        "data": {"format": "idx", "train": "train-images", "test": "test-images"},
        "limits": {"accuracy_drop": 0.03, "latency_ratio": 0.6},
        "optimize": ["latency", "size", "accuracy"],
        "space": without_students(),
        "search": search,
    }
    return Budget.model_validate({**values, **changes})
