"""A target: the device and how to reach it, the runtimes allowed there, threads, batch size and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from sousvit.checked import Checked
from sousvit.errors import UserError
from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.objectives.targets.tokens import read_token, token_of_environment
from sousvit.text.amounts import amount
from sousvit.text.paths import resolved

LOCAL, STAND_IN = "local", "stand-in"
#: An ``agent`` that the search itself starts on a node of the Ray cluster, the one that has the device.
ON_RAY = "ray"
#: Keys that say how to reach a device, not what it is: they may change while figures stay comparable.
REACHING = frozenset({"agent", "token_file", "token_env", "timeout", "patience", "summary"})
_MEGABYTES = {"mb": 1, "gb": 1000}
#: The most threads and images at once that any device is asked for, and values of such a batch (1 GB of float32).
MOST_THREADS, MOST_BATCH, MOST_IN_BATCH = 1024, 4096, 2**28
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Target(Checked):
    """Where a model runs.

    ``device`` is ``local`` (this machine), ``stand-in`` (a constrained process of this machine, which is not the
    device it stands for), a plug-in's, or the name of a device with an ``agent``: ``http://host:port`` of a
    ``sousvit device serve`` there, or ``ray`` for the cluster's node with the resource ``device:<name>``. ``runtime``
    in YAML is one name or a list that a search may choose from; ``threads: all`` takes the cores that this process, or
    the stand-in, may use.

    ``cores`` pins the measuring process; ``memory`` (MB of 10^6 bytes, or text such as ``512 MB``) is the resident
    memory that a process with the model alone may take: what needs more fails on this target. Both not for ``local``.
    Which of these keys a device heeds is the device's to say: profiles.py refuses the others.

    A browser has runtimes of its own, such as ``onnxruntime-web``; its agent is a ``sousvit device serve --web``.

    ``token_file`` or ``token_env`` hold the agent's token. ``timeout`` is how long one measurement may take,
    ``patience`` how long a device that does not answer is waited for (a board needs a minute to start again), in
    seconds.
    """

    model_config = ConfigDict(populate_by_name=True)
    name: str = ""
    device: str = Field(default=LOCAL, min_length=1)
    runtimes: tuple[str, ...] = Field(default=("onnxruntime",), alias="runtime", min_length=1)
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    batch: int = Field(default=1, ge=1, le=MOST_BATCH)
    cores: int | None = Field(default=None, ge=1, le=MOST_THREADS)
    memory: float | None = Field(default=None, gt=0, le=1e9)
    agent: str | None = None
    token_file: str | None = None
    token_env: str | None = None
    timeout: float = Field(default=300.0, gt=0, le=3600)
    patience: float = Field(default=90.0, ge=0, le=3600)
    summary: str = ""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise UserError("a target's name has letters, digits, dots, dashes", repr(name), "choose another")
        return name

    @field_validator("runtimes", mode="before")
    @classmethod
    def _one_or_many(cls, runtimes: Any) -> Any:
        return (runtimes,) if isinstance(runtimes, str) else runtimes

    @field_validator("runtimes")
    @classmethod
    def _known(cls, runtimes: tuple[str, ...]) -> tuple[str, ...]:
        for name in runtimes:
            get_runtime(name)
        if len(set(runtimes)) != len(runtimes):
            raise UserError("a target names a runtime once", list(runtimes), "remove the repetition")
        return runtimes

    @field_validator("memory", mode="before")
    @classmethod
    def _megabytes(cls, memory: Any) -> Any:
        if not isinstance(memory, str):
            return memory
        found = amount(memory)
        if found is None or found[1] not in _MEGABYTES:
            raise UserError("memory is a number of MB or GB", repr(memory), "write for instance 512 MB")
        return found[0] * _MEGABYTES[found[1]]

    @model_validator(mode="before")
    @classmethod
    def _all_threads(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("threads") != "all":
            return value
        if value.get("agent") is not None:
            raise UserError("threads of a device with an agent are a number", "all", "write for instance threads: 4")
        from sousvit.machine import available_cores

        return {**value, "threads": value.get("cores") or available_cores()}

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Target:
        unfit = _unfit_keys(self)
        if unfit:
            raise UserError(*unfit)
        return self

    @property
    def label(self) -> str:
        """The name that budgets and messages use."""
        return self.name or self.device

    @property
    def artifacts(self) -> dict[str, str]:
        """What runs an artifact here, by the runtime that it was made for: the same, but in a browser."""
        return {get_runtime(name).files_of or name: name for name in self.runtimes}

    @property
    def is_browser(self) -> bool:
        """Whether a page measures."""
        return any(get_runtime(name).files_of for name in self.runtimes)

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit, if any."""
        return None if self.memory is None else int(self.memory * 1e6)

    def token(self) -> str | None:
        """The agent's token, read now.

        Raises:
            UserError: the file or variable is not there.
        """
        if self.token_file is not None:
            return read_token(Path(self.token_file))
        return None if self.token_env is None else token_of_environment(self.token_env)

    def resolved(self, folder: Path) -> Target:
        """The same with an absolute path of the token's file."""
        if self.token_file is None:
            return self
        return self.model_copy(update={"token_file": str(resolved(self.token_file, folder))})

    def require_room(self, shape: Sequence[int]) -> None:
        """Check that a batch of images ``(C, H, W)`` is of a size to be held in memory.

        Raises:
            UserError: it is not.
        """
        if self.batch * math.prod(shape) > MOST_IN_BATCH:
            given = f"batch {self.batch} of {' x '.join(map(str, shape))}"
            raise UserError(f"a batch holds at most {MOST_IN_BATCH} values", given, "lower the target's batch")

    def __str__(self) -> str:
        parts = [f"{self.cores} core{'s' if self.cores != 1 else ''}"] if self.cores else []
        parts += [f"{self.memory:g} MB"] if self.memory else []
        limits = f" ({', '.join(parts)}{' of this machine' if self.device == STAND_IN else ''})" if parts else ""
        named = f"{self.name}: " if self.name not in ("", self.device) and self.device != LOCAL else ""
        where = f"{named}{self.device}{limits}"
        return f"{where}, {' or '.join(self.runtimes)}, threads {self.threads}, batch {self.batch}"


def _unfit_keys(target: Target) -> tuple[str, object, str] | None:
    """The first rule between keys that is broken, in a UserError's words."""
    if target.token_file is not None and target.token_env is not None:
        return "a token comes from one place", "token_file and token_env", "remove one of the two"
    if target.cores is not None and target.threads > target.cores:
        return "a target has a core for every thread", f"threads {target.threads} on {target.cores}", "lower threads"
    if target.is_browser and not all(get_runtime(name).files_of for name in target.runtimes):
        return "a target is a browser or it is none", list(target.runtimes), "give each a target of its own"
    if len(target.artifacts) < len(target.runtimes):
        return "a target runs each file in one runtime", list(target.runtimes), "give each a target of its own"
    single = [name for name in target.runtimes if not get_runtime(name).batches]
    if single and target.batch > 1:
        return f"files of {single[0]} take one image at a time", f"batch {target.batch}", "write batch: 1"
    return None
