"""The suite of runtimes that users call: a runtime of one file passes, and what is broken in others is told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sousvit.objectives.runtimes.conformance import check_runtime
from sousvit.objectives.runtimes.onnxruntime_ import OnnxRuntime
from sousvit.objectives.runtimes.runtime import RUNTIMES, Runtime, Session
from sousvit.registry import load_class
from sousvit.spaces.export.onnx import OnnxExporter

TOY = load_class(f"{Path(__file__).parents[2] / 'toy_runtime.py'}:Reference", "runtime")


def test_a_runtime_of_a_users_file_conforms_and_need_not_be_registered():
    check_runtime(TOY())
    assert "reference" not in RUNTIMES


def test_ours_is_checked_as_it_is():
    check_runtime(OnnxRuntime)


class Mine(OnnxRuntime):
    """Holds the contract; what is derived from it breaks one rule each."""

    name, exporter = "mine", OnnxExporter
    session: ClassVar[type[Session] | None] = None

    def open(self, artifact, threads, batch=None):
        found = super().open(artifact, threads, batch)
        return found if self.session is None else self.session(found)


class Changed(Session):
    def __init__(self, session):
        self.session = session

    def run(self, batch):
        return self.session.run(batch)


class Doubles(Changed):
    def run(self, batch):
        return super().run(batch).astype(np.float64)


class Wrong(Changed):
    def run(self, batch):
        return -super().run(batch)


class Overwrites(Changed):
    kept = None

    def run(self, batch):
        found = super().run(batch)
        if self.kept is None or self.kept.shape != found.shape:
            self.kept = found
        self.kept[:] = found
        return self.kept


class Mixes(Changed):
    def run(self, batch):
        return super().run(batch[::-1]) if len(batch) == 3 else super().run(batch)


class Crops(Changed):
    def run(self, batch):
        return super().run(np.resize(batch, (len(batch), 3, 16, 16)))


class Panics(Mine):
    def open(self, artifact, threads, batch=None):
        if artifact.path.stat().st_size < 100:
            raise OSError("no model")
        return super().open(artifact, threads, batch)


class Unversioned(Mine):
    def version(self):
        return None


class Unknown(Mine):
    exporter = type("Odd", (OnnxExporter,), {"deployments": {"fp16": "no_such_runtime"}})


class Nothing(Mine):
    exporter = None


def with_session(session: type[Session]) -> type[Runtime]:
    return type("Broken", (Mine,), {"session": session})


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (with_session(Doubles), "mine: run must return float32, not float64"),
        (with_session(Wrong), "agree with PyTorch: the artifact disagrees"),
        (with_session(Overwrites), "run must leave earlier predictions as they are"),
        (with_session(Mixes), "a batch must give what its images give one by one"),
        (with_session(Crops), "run of images of another size must raise TrialError"),
        (Panics, "open of a file that is no model must raise TrialError, not OSError"),
        (Unversioned, "version must be a text"),
        (Unknown, "deployments: fp16: it must be a function, or name a runtime that it suits"),
        (Nothing, "a runtime derives from .*Exporter"),
        (object, "a runtime derives from"),
    ],
)
def test_a_runtime_that_breaks_a_rule_is_told_which(runtime, words):
    with pytest.raises(AssertionError, match=words):
        check_runtime(runtime)
