"""What a search tells as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sousvit.search.trial import BaseRecord, Trial
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.space import Space


@dataclass
class Counts:
    """What the search did so far in this session."""

    finished: int = 0
    unfit: int = 0
    gated_analytic: int = 0
    gated_measured: int = 0
    failed: int = 0
    replayed: int = 0
    variants: int = 0
    promoted: int = 0


@dataclass
class Watcher:
    """What the engine tells as it goes; every hook may be left out."""

    trial: Callable[[Trial, Counts], None] = lambda record, counts: None
    begin: Callable[[str, Recipe, float], None] = lambda origin, recipe, fidelity: None
    counts: Counts = field(default_factory=Counts)


@dataclass
class Hooks:
    """What a run tells its user.

    ``say`` takes a line of text, ``ready`` the base and the space before the search begins.
    """

    say: Callable[[str], None] = lambda text: None
    ready: Callable[[BaseRecord, Space, dict[str, str]], None] = lambda base, space, left_out: None
    watcher: Watcher = field(default_factory=Watcher)
