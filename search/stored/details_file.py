"""``details.json``: what the answer's session saw besides figures, for the report. Losing it loses no result."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from sousvit.checked import Checked, validated
from sousvit.errors import UserError
from sousvit.files import MOST_DESCRIPTION, read_text, write_atomic

DETAILS = "details.json"
#: Images on which base and answer disagree, at most; pixels of the longer side of each.
MOST_IMAGES, THUMBNAIL = 24, 64
#: Characters of one in base64: a PNG of noise has a third of it.
MOST_ENCODED = 65536
_PNG = b"\x89PNG\r\n\x1a\n"


class Latency(Checked):
    """Percentiles of single inferences in ms, and the 95% interval of the median."""

    p50: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    p95: float = Field(gt=0)
    p99: float = Field(gt=0)
    samples: int = Field(ge=1)
    noisy: bool = False


class ClassFigures(Checked):
    """One class on the answer's images: how many there are, and how many of them base and answer get right."""

    name: str
    count: int = Field(ge=0)
    base: int = Field(ge=0)
    answer: int = Field(ge=0)


class Disagreement(Checked):
    """An image to which base and answer give different classes: a PNG in base64, and names of classes.

    ``label`` is empty where there are no labels.
    """

    image: str = Field(max_length=MOST_ENCODED)
    label: str
    base: str
    answer: str

    @field_validator("image")
    @classmethod
    def _is_png(cls, value: str) -> str:
        if not b64decode(value, validate=True).startswith(_PNG):
            raise ValueError("no PNG")
        return value


class Details(Checked):
    """What the final judging can tell besides figures.

    Attributes:
        latencies: by row of the final table, then by target.
        shape: plain values of the shape of the answer's model, see :func:`sousvit.spaces.shape.read_shape`.
        classes: per class, by its number; empty where images have none.
        num_disagreements: images to which base and answer give different classes; None where models give none.
        disagreements: a few of them, spread over the images.
        sensitivity: per block of ``sensitivity_of`` how much the predictions change when it alone is rounded to int8.
        sensitivity_of: ``answer`` or ``base``, whichever has blocks.
    """

    latencies: dict[str, dict[str, Latency]] = Field(default={})
    shape: dict[str, Any] | None = None
    classes: tuple[ClassFigures, ...] = ()
    num_disagreements: int | None = Field(default=None, ge=0)
    disagreements: tuple[Disagreement, ...] = Field(default=(), max_length=MOST_IMAGES)
    sensitivity: dict[str, float] = Field(default={})
    sensitivity_of: str = ""


def write_details(details: Details | None, folder: Path) -> None:
    """Write the file into a run folder; without details, those of an earlier answer go."""
    if details is None:
        (folder / DETAILS).unlink(missing_ok=True)
    else:
        write_atomic(folder / DETAILS, json.dumps(details.model_dump(mode="json")))


def read_details(folder: Path) -> Details | None:
    """What a run keeps; None where there is nothing.

    Raises:
        UserError: the file is none that a search wrote.
    """
    path = folder / DETAILS
    if not path.exists():
        return None
    try:
        return validated(Details, json.loads(read_text(path, "a run's details", MOST_DESCRIPTION)), str(path))
    except (ValueError, RecursionError) as error:
        rule, action = "a run's details are as the search wrote them", "remove the file, or resume the search"
        raise UserError(rule, f"{path}: {error}", action) from error
