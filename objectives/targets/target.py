"""A target: the device, the runtimes allowed there, threads and batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sousvit.common.errors import UnknownNameError, UserError
from sousvit.common.schema import read_yaml, validated

PROFILES = Path(__file__).parent


class Target(BaseModel):
    """Where a model runs.

    ``runtime`` in YAML is one name or a list that a search may choose from; ``threads: all`` takes the cores
    that this process may use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    device: str = "local"
    runtimes: tuple[str, ...] = Field(default=("onnxruntime",), alias="runtime", min_length=1)
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)

    @field_validator("device")
    @classmethod
    def _only_local(cls, device: str) -> str:
        if device != "local":
            raise UserError("a target's device must be local in this release", repr(device), "write device: local")
        return device

    @field_validator("runtimes", mode="before")
    @classmethod
    def _one_or_many(cls, runtimes: Any) -> Any:
        return (runtimes,) if isinstance(runtimes, str) else runtimes

    @field_validator("runtimes")
    @classmethod
    def _known(cls, runtimes: tuple[str, ...]) -> tuple[str, ...]:
        from sousvit.objectives.runtimes.runtime import get_runtime

        for name in runtimes:
            get_runtime(name)
        if len(set(runtimes)) != len(runtimes):
            raise UserError("a target names a runtime once", list(runtimes), "remove the repetition")
        return runtimes

    @field_validator("threads", "batch", mode="before")
    @classmethod
    def _counts(cls, count: Any) -> Any:
        if isinstance(count, bool):
            raise UserError("threads and batch are counts", count, "write a number")
        return count

    @field_validator("threads", mode="before")
    @classmethod
    def _all_threads(cls, threads: Any) -> Any:
        if threads != "all":
            return threads
        from sousvit.common.device import available_cores

        return available_cores()

    def __str__(self) -> str:
        return f"{self.device}, {' or '.join(self.runtimes)}, threads {self.threads}, batch {self.batch}"


def list_targets() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_target(name: str | Path, folder: Path | None = None) -> Target:
    """A shipped profile by name, ``device/runtime`` in short, or a YAML file (relative to ``folder``).

    Raises:
        UserError: no such profile or file, or it breaks a rule.
    """
    text = str(name)
    if not text.endswith((".yaml", ".yml")):
        device, slash, runtime = text.partition("/")
        if slash:
            return validated(Target, {"device": device, "runtime": runtime}, f"target {text}")
        if text not in list_targets():
            raise UnknownNameError("target", text, list_targets())
        return validated(Target, read_yaml(PROFILES / f"{text}.yaml"), f"target {text}")
    path = (folder or Path()) / text
    return validated(Target, read_yaml(path), str(path))
