"""Targets by name, from a file, or from plain values: checked against the device that they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sousvit.checked import read_yaml, validated
from sousvit.errors import UnknownNameError
from sousvit.objectives.devices.open import device_of
from sousvit.objectives.targets.target import Target

PROFILES = Path(__file__).parent


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
            return make_target({"device": device, "runtime": runtime}, folder or Path(), f"target {text}")
        if text not in list_targets():
            raise UnknownNameError("target", text, list_targets())
        path = PROFILES / f"{text}.yaml"
    else:
        path = (folder or Path()) / text
    return make_target({"name": path.stem, **read_yaml(path)}, path.parent, str(path))


def make_target(value: Any, folder: Path, where: str = "target") -> Target:
    """A checked target from plain values; paths in it are relative to ``folder``.

    Raises:
        UserError: it breaks a rule.
    """
    target = validated(Target, value, where).resolved(folder)
    device_of(target)
    return target
