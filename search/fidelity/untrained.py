"""What models are before their recovery: recipes that differ in nothing else share it, so it is judged once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sousvit.search.fidelity.learning_curve import UNTRAINED

if TYPE_CHECKING:
    from sousvit.search.archive import Archive
    from sousvit.search.pending import Work
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

    def of(self, work: Work) -> Trial | None:
        """The result of ``work``, an untrained evaluation, where the same model was judged before; it took no time."""
        from sousvit.spaces.recipe import Recipe

        for trial in self._archive.since(self._read):
            self._read += 1
            if trial.status == "complete":
                recipe = Recipe.from_dict(trial.recipe)
                if trial.fidelity == UNTRAINED or recipe.unrecovered() == recipe:
                    self._known.setdefault((_judged(recipe), trial.seed), trial)
        known = self._known.get((_judged(work.recipe), work.seed))
        if known is None:
            return None
        return replace(
            known,
            key=work.key,
            recipe=work.recipe.to_dict(),
            fidelity=UNTRAINED,
            origin=work.origin,
            number=work.number,
            attempt="",
            seconds={},
            artifact="",
            source="",
        )


def _judged(recipe: Recipe) -> str:
    return recipe.unrecovered().hash
