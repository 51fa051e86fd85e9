"""Requests to a measuring process, and its answers: plain values, checked on both sides of a pipe or network.

Light: this file, :mod:`.measure`, :mod:`.process`, :mod:`.remote.store` and :mod:`.remote.agent` run on small boards
with nothing but numpy and a runtime.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sousvit.errors import UserError
from sousvit.objectives.runtimes.artifact_check import check_options
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.objectives.timing import DEFAULT, Group, TimingPlan
from sousvit.spaces.export.artifact import MAX_INPUT, Artifact, is_file_name

Ask = Literal["time", "probe", "energy"]
ASKS: tuple[Ask, ...] = ("time", "probe", "energy")
#: Bounds on what a stranger may ask of a device.
MAX_ARTIFACTS, MAX_BATCH, MAX_THREADS = 64, 4096, 1024
MAX_SECONDS = 3600.0
_HASH = re.compile(r"[0-9a-f]{64}")


class RequestError(ValueError):
    """A request or an answer is not as it must be."""


@dataclass(frozen=True)
class Request:
    """One request to a measuring process.

    Attributes:
        ask: ``time`` (all artifacts interleaved with the baseline), ``probe`` or ``energy`` (of the one artifact).
        artifacts: by name.
        baseline: a name among them.
        threads, batch: of every session.
        plan: how long to measure.
        with_baseline: time the baseline beside itself too.
        cores: CPU cores that the process is pinned to; None for all.
        memory_bytes: resident memory at which the process is stopped; None without a limit.
        timeout: seconds after which the process is stopped.
        images: of a browser, which is asked for its predictions too: the SHA-256 of a file of normalised images,
            float32 ``[N, C, H, W]``.
    """

    ask: Ask
    artifacts: Mapping[str, Artifact]
    baseline: str
    threads: int = 1
    batch: int = 1
    plan: TimingPlan = DEFAULT
    with_baseline: bool = False
    cores: int | None = None
    memory_bytes: int | None = None
    timeout: float = 300.0
    images: str | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the batch that is run, ``(B, C, H, W)``."""
        return (self.batch, *self.artifacts[self.baseline].input_shape[1:])

    def to_dict(self, place: Callable[[Artifact], Mapping[str, Any]]) -> dict[str, Any]:
        """Plain values; ``place`` says where an artifact's files are (a folder here, hashes over a network)."""
        artifacts = {name: {**describe(one), **place(one)} for name, one in self.artifacts.items()}
        return {**asdict(replace(self, artifacts={})), "artifacts": artifacts}

    @classmethod
    def from_dict(cls, plain: Any, folder: Callable[[Mapping[str, Any]], Path]) -> Request:
        """The inverse; ``folder`` finds an artifact's files from its description.

        Raises:
            RequestError: anything missing, unknown or out of bounds.
        """
        try:
            given = dict(plain)
            descriptions = dict(given.pop("artifacts"))
            plan = TimingPlan(**given.pop("plan"))
            if not 1 <= len(descriptions) <= MAX_ARTIFACTS:
                raise RequestError(f"a request has 1 to {MAX_ARTIFACTS} artifacts, not {len(descriptions)}")
            artifacts = {str(name): read_artifact(one, folder) for name, one in descriptions.items()}
            request = cls(artifacts=artifacts, plan=plan, **given)
            request._check()
        except (UserError, RequestError):
            raise
        except (TypeError, KeyError, AttributeError, ValueError) as error:  # dict("x") is a ValueError
            raise RequestError(f"the request is malformed: {error}") from error
        return request

    def _check(self) -> None:
        seconds = (self.plan.min_seconds, self.plan.max_seconds, self.plan.round_seconds, self.timeout)
        counts = (self.plan.min_groups, self.plan.warmup)
        rules = {
            "ask is time, probe or energy": self.ask in ASKS,
            "the baseline is one of the artifacts": self.baseline in self.artifacts,
            "threads are a count": _is_count(self.threads, MAX_THREADS),
            "batch is a count": _is_count(self.batch, MAX_BATCH),
            "cores are a count": self.cores is None or _is_count(self.cores, MAX_THREADS),
            "memory is a count of bytes": self.memory_bytes is None or _is_count(self.memory_bytes, 2**60),
            "times are in bounds": all(_is_number(value) and 0 < value <= MAX_SECONDS for value in seconds),
            "images are named by their SHA-256": self.images is None or is_hash(self.images),
            "groups are a count": all(_is_count(value, 10_000) for value in counts),
            "all artifacts take one input": len({one.input_shape for one in self.artifacts.values()}) == 1,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if not broken and math.prod(self.shape) > MAX_INPUT:
            broken.append("a batch is of bounded size")
        if broken:
            raise RequestError("; ".join(broken))


def describe(artifact: Artifact) -> dict[str, Any]:
    """What a runtime must know of an artifact besides its files."""
    return {
        "runtime": artifact.runtime,
        "file": artifact.file,
        "input_shape": list(artifact.input_shape),
        "options": artifact.options,
    }


def check_file_name(name: Any) -> str:
    """``name``, if it is a plain file name.

    Raises:
        RequestError: it could leave its folder.
    """
    if not is_file_name(name):
        raise RequestError(f"a file name has letters, digits, dots, dashes, not {str(name)[:40]!r}")
    return str(name)


def read_artifact(plain: Mapping[str, Any], folder: Callable[[Mapping[str, Any]], Path]) -> Artifact:
    """The artifact of a :func:`description <describe>`; ``folder`` finds its files from it.

    Raises:
        RequestError: a value is out of bounds, or an option is none of its runtime's.
    """
    shape, options = tuple(plain["input_shape"]), dict(plain["options"])
    if len(shape) != 4 or not all(_is_count(size, MAX_INPUT) for size in shape):
        raise RequestError(f"an input shape has four sizes, not {shape}")
    runtime = str(plain["runtime"])
    if runtime in RUNTIMES:  # of others, their options are checked with their files, when they are known
        try:
            check_options(runtime, RUNTIMES.get(runtime).options, options)
        except UserError as error:
            raise RequestError(str(error)) from error
    return Artifact(folder(plain), runtime, check_file_name(plain["file"]), shape, options=options)


def is_hash(name: object) -> bool:
    """Whether ``name`` is a whole SHA-256 in hex."""
    return isinstance(name, str) and _HASH.fullmatch(name) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def encode_groups(groups: Mapping[str, list[Group]]) -> dict[str, Any]:
    """Raw latencies (seconds) as plain values; that they are means is said where they are."""
    return {name: [_plain_group(group) for group in done] for name, done in groups.items()}


def _plain_group(group: Group) -> dict[str, Any]:
    plain = asdict(group)
    if not group.means:
        del plain["means"]
    return plain


def decode_groups(plain: Any) -> dict[str, list[Group]]:
    """The inverse.

    Raises:
        RequestError: not of that form, or a latency is no number above 0.
    """
    try:
        groups = {str(name): [Group(**group) for group in done] for name, done in plain.items()}
    except (TypeError, AttributeError) as error:
        raise RequestError(f"timings are malformed: {error}") from error
    for group in (group for done in groups.values() for group in done):
        rounds = (group.candidate, group.baseline_first, group.baseline_last)
        if not all(isinstance(one, list) and one and all(_is_number(s) and s > 0 for s in one) for one in rounds):
            raise RequestError("latencies are numbers above 0")
        if not _is_number(group.cpu_share) or not isinstance(group.means, bool):
            raise RequestError("a CPU share is a number, and means are true or false")
    return groups
