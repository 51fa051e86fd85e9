"""The content of a report: what the page shows of a run, as plain values. HTML, Markdown and JSON show the same.

``Content`` is made from a run by :func:`sousvit.search.report.page.gather.gather`; ``sousvit report RUN --format json``
prints it. Texts may hold anything that a run holds, markup included: whoever shows them escapes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: Of what a figure was found against its bound: the colours of a traffic light, and none.
Shown = Literal["holds", "not shown", "broken", "not measured"]
#: What became of a trial.
State = Literal["fits", "breaks a limit", "partly trained", "untrained", "gated", "failed"]
Role = Literal["base", "answer", "best single", "trial"]

#: The part of the network that is all of it.
WHOLE = "whole network"

#: ``[value, low, high]``; the ends are None where there is no interval.
Span = list[float | None]


@dataclass(frozen=True)
class Light:
    """One figure held against a limit: ``figure`` in words, on which ``images`` ("" where it hangs on none)."""

    shown: Shown
    figure: str
    images: str


@dataclass(frozen=True)
class LimitLights:
    """A limit, as the search saw it hold, and as the answer was judged on images that no trial saw."""

    name: str
    bound: str
    search: Light
    answer: Light


@dataclass(frozen=True)
class Headline:
    """A big number: ``3.9x``, its ``interval`` in words, and what it is."""

    title: str
    value: str
    interval: str
    about: str


@dataclass(frozen=True)
class Axis:
    """A quantity that points have: ``factor`` is 100 where a share is shown in per cent."""

    name: str
    label: str
    factor: float
    maximise: bool
    bounds: list[float]


@dataclass(frozen=True)
class Point:
    """The base or a trial on the front's plot.

    Attributes:
        key: of the trial; ``base`` for the base.
        training: share of its recovery training.
        values: figures by the name of an axis, in the objectives' units.
        recipe: in short; ``steps`` has every parameter.
        commands: that make its model again.
    """

    key: str
    role: Role
    state: State
    on_front: bool
    training: float
    values: dict[str, Span]
    recipe: str
    steps: list[str]
    origin: str
    message: str
    commands: list[str]


@dataclass(frozen=True)
class Cut:
    """A part of the network, before and after: ``share`` is what is left of it, None where that says nothing."""

    part: str
    what: str
    base: str
    answer: str
    share: float | None


@dataclass(frozen=True)
class Part:
    """What a technique brought, from the answer without it: factors of latency and file, points of merit."""

    technique: str
    faster: float
    smaller: float
    points: float


@dataclass(frozen=True)
class Curve:
    """A recipe judged at several shares of its training: ``points`` are ``[share, figure of merit in %]``."""

    recipe: str
    is_answer: bool
    points: list[list[float]]


@dataclass(frozen=True)
class LatencyRow:
    """Percentiles of single inferences in ms of one row of the final table on one target."""

    role: str
    target: str
    p50: float
    low: float
    high: float
    p95: float
    p99: float
    noisy: bool


@dataclass(frozen=True)
class ClassRow:
    """Per cent of a class that base and answer get right."""

    name: str
    count: int
    base: float
    answer: float


@dataclass(frozen=True)
class Picture:
    """An image in base64 (PNG) on which base and answer disagree, with the names of classes."""

    image: str
    label: str
    base: str
    answer: str


@dataclass(frozen=True)
class TableRow:
    """A row of a table: its head, its cells, its recipe."""

    head: str
    cells: list[str]
    recipe: str


@dataclass(frozen=True)
class Content:
    """Everything that a report shows.

    Attributes:
        name: of the run.
        status: the verdict; ``running`` where there is none yet.
        said: the verdict in a sentence.
        recipe: the answer's, in short.
        facts: pairs of what and which.
        merit: what the figure of merit is called, such as ``top-1``.
        saved_all: factor of latency and file of the whole recipe, and its points of merit, beside ``parts``.
        sensitivity: per block how much predictions change when it alone is rounded to int8.
        disagreements: how many of the answer's images base and answer disagree on, in words.
        reproduce: commands, in their order.
        contact_sheet: a PNG of synthesised images in base64, or "".
    """

    name: str
    status: str
    said: str
    recipe: str
    reason: str
    notes: list[str]
    facts: list[list[str]]
    limits: list[LimitLights]
    headlines: list[Headline]
    merit: str
    axes: list[Axis]
    points: list[Point]
    cuts: list[Cut]
    cuts_note: str
    parts: list[Part]
    saved_all: Part | None
    curves: list[Curve]
    sensitivity: dict[str, float]
    sensitivity_of: str
    latencies: list[LatencyRow]
    classes: list[ClassRow]
    pictures: list[Picture]
    disagreements: str
    headings: list[str]
    rows: list[TableRow]
    judged_on: str
    alternative_headings: list[str]
    alternatives: list[TableRow]
    cost: str
    reproduce: list[str]
    contact_sheet: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
