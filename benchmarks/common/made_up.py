"""A made-up search for measuring the engine itself: a budget, figures that follow from shapes, and a stopwatch.

It imports the engine from inside, because that is what is measured.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict

import timm

from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.engine import Engine
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.executors.simulated import SimulatedClock
from sousvit.search.trial import BaseRecord
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import Space, make_space, read_space


def budget(trials: int, **search: object) -> Budget:
    """Several limits, three objectives."""
    return Budget.model_validate(
        {
            "model": {"name": "vit_tiny_patch16_224"},
            "data": {"format": "idx", "train": "train-images"},
            "limits": {"accuracy_drop": 0.05, "latency_ratio": 0.9},
            "optimize": ["latency", "size", "accuracy"],
            "search": {"trials": trials, **search},
        }
    )


def figures(recipe: Recipe, shape: VitShape, fidelity: float = 1.0) -> dict[str, Measurement]:
    """Figures that follow from the shape, with some noise; before its recovery a model loses half as much again."""
    small = recipe.reshape(shape)
    cost = small.macs() / shape.macs()
    noise = random.Random(recipe.hash).uniform(-0.01, 0.01)
    accuracy = 0.9 - (0.2 if fidelity else 0.3) * (1 - cost) ** 2 + noise
    values = {
        "accuracy": accuracy, "accuracy_drop": 0.9 - accuracy, "latency": 10 * cost, "latency_ratio": cost,
        "size": small.params() * recipe.bytes_per_weight / 1e6,
        "macs": small.macs() / 1e6, "params": small.params() / 1e6,
    }  # fmt: skip
    return {name: Measurement(value) for name, value in values.items()}


def world() -> tuple[VitShape, BaseRecord, Space]:
    """A DeiT-Ti's shape, its made-up base figures, and the whole space."""
    shape = vit_shape(timm.create_model("deit_tiny_patch16_224"))
    space, _ = make_space(read_space("all"), shape, ("onnxruntime", "openvino"))
    return shape, BaseRecord(figures(Recipe(), shape), asdict(shape), {}), space


class Stopwatch:
    """Seconds of this process, and those in which it waited for the disk: others on the machine are not counted."""

    def __init__(self) -> None:
        self._waited, self._fsync = 0.0, os.fsync
        os.fsync = self._timed_fsync

    def __call__(self) -> float:
        return time.process_time() + self._waited

    def _timed_fsync(self, place: int) -> None:
        begun, used = time.perf_counter(), time.process_time()
        self._fsync(place)
        self._waited += max(0.0, time.perf_counter() - begun - (time.process_time() - used))


class Charged:
    """An engine whose own time is taken, and passes on the simulated clock.

    Attributes:
        calls: per call ``(what, trials in the archive before it, seconds)``; ``asked`` gave a job that a proposer
            chose, ``next`` any other answer to the question for a job, ``took`` recorded an outcome.
        last_start: when the last job was handed out.
    """

    def __init__(self, engine: Engine, archive: Archive, clock: SimulatedClock) -> None:
        self._engine, self._archive, self._clock, self._watch = engine, archive, clock, Stopwatch()
        self.calls: list[tuple[str, int, float]] = []
        self.last_start = 0.0
        self.rungs_of, self.continue_with = engine.rungs_of, engine.continue_with

    def next_job(self) -> Job | None:
        known, otherwise, begun = len(self._archive), self._given_otherwise(), self._watch()
        job = self._engine.next_job()
        asked = job is not None and self._given_otherwise() == otherwise
        self._charge("asked" if asked else "next", known, begun)
        self.last_start = self._clock.now if job is not None else self.last_start
        return job

    def prepare(self) -> None:
        known, begun = len(self._archive), self._watch()
        self._engine.prepare()
        self._charge("ahead", known, begun)

    def keep(self, outcomes: Sequence[JobResult]) -> None:
        known, begun = len(self._archive), self._watch()
        self._engine.keep(outcomes)
        self._charge("kept", known, begun)

    def take(self, outcome: JobResult) -> bool:
        known, begun = len(self._archive), self._watch()
        taken = self._engine.take(outcome)
        self._charge("took", known, begun)
        return taken

    def _given_otherwise(self) -> int:
        return self._engine.counts.variants + self._engine.counts.promoted

    def _charge(self, what: str, known: int, begun: float) -> None:
        spent = self._watch() - begun
        self.calls.append((what, known, spent))
        self._clock.now += spent
