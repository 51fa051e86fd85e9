"""Untrained evaluations: recipes that differ in nothing but their recovery share one, so it is judged once."""

from __future__ import annotations

from dataclasses import replace

from sousvit.search.archive import Archive
from sousvit.search.fidelity.learning_curve import UNTRAINED
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe


class UntrainedResults:
    """Untrained evaluations of an archive, and final results of recipes without recovery, by what was judged.

    Args:
        archive: read on as it grows.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._known: dict[tuple[str, int], Trial] = {}
        self._read = 0

    def of(self, trial: Trial) -> Trial | None:
        """A pending untrained evaluation with its result, where the same model was judged before; it took no time."""
        if trial.fidelity != UNTRAINED:
            return None
        self._read_on()
        known = self._known.get((_judged(trial.parsed), trial.seed))
        return None if known is None else replace(trial, status="complete", values=known.values)

    def _read_on(self) -> None:
        for trial in self._archive.since(self._read):
            self._read += 1
            if trial.status == "complete":
                recipe = trial.parsed
                if trial.fidelity == UNTRAINED or recipe.unrecovered() == recipe:
                    self._known.setdefault((_judged(recipe), trial.seed), trial)


def _judged(recipe: Recipe) -> str:
    return recipe.unrecovered().hash
