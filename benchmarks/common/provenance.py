"""Provenance, which every result names, and the writing of a result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sousvit

NOTES = "\n## Notes\n"


def provenance(command: str, facts: Mapping[str, Any] | None = None, date: str = "") -> list[str]:
    """Command, date, machine and versions (of this machine and today, unless given), and an empty line."""
    facts = facts or sousvit.machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    place = f"{facts['cpu']} ({', '.join(facts['flags'])}), {facts['cores']} cores"
    return [f"Command: `{command}`; {date or time.strftime('%Y-%m-%d')}; {place}; {versions}.", ""]


def write_result(path: Path, text: str) -> None:
    """Write what was measured. What a person wrote about an earlier measurement, from ``## Notes`` on, stays."""
    earlier = path.read_text() if path.is_file() else ""
    _, heading, notes = earlier.partition(NOTES)
    path.write_text(text + heading + notes)
