"""Tasks: what models are for. The contract is task.py; a new task is a file and a line in this table."""

from __future__ import annotations

#: Name of the task -> its class, imported at first look-up.
BUILTIN = {
    "classification": "sousvit.spaces.tasks.classification:Classification",
    "detection": "sousvit.spaces.tasks.detection:Detection",
}
