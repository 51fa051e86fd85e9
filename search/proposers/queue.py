"""The queue of proposals: what a search asks for, in which order, and the log from which a killed search goes on.

Recipes that were enqueued come first (:mod:`.starters`), then those of the proposer. Three events in the archive hold
what its trials do not: ``enqueued`` (recipes that wait), ``asked`` (a proposal and its parameters) and ``told`` (what
the proposer was told of it). The search does not wait for the disk: what a
power cut takes of them is asked again.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.proposers.proposer import Problem, Proposal, Proposer
from sousvit.search.trial import Trial, decode, encode
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import Space

OWN_EVENTS = ("enqueued", "asked", "told")
#: Origin of what the proposer asks for, and of what is drawn in its place.
PROPOSED = "proposed"
#: Changed recipes that are drawn at most to find one that is new.
DRAWS = 20
#: Share of drawn recipes that are an earlier one with one parameter drawn anew.
CHANGED = 0.8


class ProposalQueue:
    """The proposals of one search.

    Args:
        problem: what is searched.
        proposer: for the same problem, and not asked yet.
        archive: open for writing; where it holds proposals, the proposer is told of them.
    """

    def __init__(self, problem: Problem, proposer: Proposer, archive: Archive) -> None:
        self.problem, self.proposer, self._archive = problem, proposer, archive
        self._waiting: deque[tuple[Mapping[str, Any], str]] = deque()
        self._unfinished: dict[int, Proposal] = {}
        #: Parameters of all proposals so far, and the number of the next one.
        self._asked: list[Mapping[str, Any]] = []
        self._next = 0
        #: How many trials were known at the last question, and how many questions there had been with them known.
        self._moment = (-1, 0)
        self._listed: list[tuple[dict[str, Any], Recipe]] | None = None
        #: Whether nothing was enqueued or asked for in an earlier session.
        self.is_new = not self._take_up()

    @property
    def space(self) -> Space:
        """What may be combined."""
        return self.problem.space

    @property
    def is_waiting(self) -> bool:
        """Whether some recipe was enqueued and not asked for yet."""
        return bool(self._waiting)

    @property
    def unfinished(self) -> list[Proposal]:
        """What was asked for and not told, in order."""
        return list(self._unfinished.values())

    def enqueue(self, recipes: Iterable[tuple[str, Recipe]]) -> None:
        """Ask for these next, each by its origin; those that the space does not hold are left out."""
        asked = [(self.problem.parameters(recipe), origin) for origin, recipe in recipes]
        found = [(parameters, origin) for parameters, origin in asked if parameters is not None]
        self._archive.note("enqueued", recipes=found)
        self._waiting.extend(found)

    def ask(self, pending: Sequence[Recipe] = ()) -> Proposal | None:
        """The next proposal; None where the proposer has none.

        Args:
            pending: recipes on their way.
        """
        history, known = self._archive.records, len(self._archive)
        moment, note, others = self._following(known), dict[str, Any](), list[tuple[Mapping[str, Any], str]]()
        if self._waiting:
            parameters, origin = self._waiting.popleft()
        else:
            suggestions = self.proposer.ask_many(history, pending, self._seed_of(moment))
            if not suggestions:
                return None
            for suggestion in suggestions:
                self.problem.suggest(suggestion.parameters)  # raises where it asks for what is not there
            parameters, origin, note = suggestions[0].parameters, PROPOSED, dict(suggestions[0].note)
            others = [(dict(suggestion.parameters), PROPOSED) for suggestion in suggestions[1:]]
        proposal = Proposal(self._next, parameters, origin, self.problem, note)
        content = {"number": proposal.number, "origin": origin, "parameters": dict(parameters), "known": known}
        self._archive.note("asked", **content, **({"note": note} if note else {}))
        if others:
            self._archive.note("enqueued", recipes=others)
            self._waiting.extend(others)
        self._begin(proposal, moment)
        return proposal

    def tell(self, proposal: Proposal, trial: Trial) -> None:
        """Tell the proposer what came of ``proposal``."""
        record = self._archive.trials.get(trial.key)
        measured = {} if record is None else record.values
        changed = {name: value for name, value in trial.values.items() if measured.get(name) != value}
        self._archive.note("told", number=proposal.number, trial=trial.key, values=encode(changed))
        self._tell(proposal.number, trial)

    def reject(self, proposal: Proposal) -> None:
        """Tell the proposer that the recipe's values do not fit together."""
        self.tell(proposal, self._misfit(proposal))

    def vary(self, is_new: Callable[[Recipe], bool]) -> bool:
        """Ask for something else next than the proposer would: what is left of a listed space, or a changed recipe.

        Args:
            is_new: whether asking for a recipe would give a trial.

        Returns:
            False where nothing is left.
        """
        found = self._next_listed(is_new) if self.space.is_listed else self._changed(is_new)
        if found is not None:
            self._waiting.append((found, PROPOSED))
        return found is not None

    def _next_listed(self, is_new: Callable[[Recipe], bool]) -> dict[str, Any] | None:
        """Some recipe of a listed space that is new."""
        if self._listed is None:
            self._listed = list(self.space.suggestions())
            random.Random(self.problem.seed).shuffle(self._listed)
        while self._listed:  # what is not new will never be
            parameters, recipe = self._listed.pop()
            if is_new(recipe.fitting(self.problem.shape)):
                return parameters
        return None

    def _changed(self, is_new: Callable[[Recipe], bool]) -> dict[str, Any]:
        """An earlier recipe with one parameter drawn anew, or one that is drawn as a whole.

        Drawn until it is new, which takes less time than a trial that is not, but not for ever.
        """
        generator, parameters = random.Random(self._seed_of(self._moment)), dict[str, Any]()
        for _ in range(DRAWS):
            known = dict(generator.choice(self._asked)) if self._asked and generator.random() < CHANGED else {}
            if known:
                known.pop(generator.choice(list(known)))
            parameters, recipe = self.space.draw(generator, known)
            if is_new(recipe.fitting(self.problem.shape)):
                break
        return parameters

    # What is drawn hangs on how many results are known, not on what was drawn before: a resumed search draws the same.

    def _following(self, known: int) -> tuple[int, int]:
        """The moment of another question, while ``known`` trials are known."""
        last, times = self._moment
        return known, times + 1 if known == last else 0

    def _seed_of(self, moment: tuple[int, int]) -> int:
        return zlib.crc32(f"{self.problem.seed} {moment}".encode())

    def _begin(self, proposal: Proposal, moment: tuple[int, int]) -> None:
        self._moment = moment
        self._unfinished[proposal.number] = proposal
        self._asked.append(proposal.parameters)
        self._next = proposal.number + 1
        self.proposer.begin(proposal)

    def _tell(self, number: int, trial: Trial) -> None:
        del self._unfinished[number]
        self.proposer.tell(replace(trial, number=number))

    def _misfit(self, proposal: Proposal) -> Trial:
        plain, seed = proposal.recipe.to_dict(), self.problem.seed
        return Trial("", plain, FULL, seed, "failed", origin=proposal.origin, message="its values do not fit together")

    # An earlier session

    def _take_up(self) -> bool:
        """Tell the proposer what the archive's log holds; whether it holds any proposal."""
        events = [event for event in self._archive.others() if event["event"] in OWN_EVENTS]
        told = {event["number"] for event in events if event["event"] == "told"}
        for event in events or self._of_earlier_version():
            if event["event"] == "enqueued":
                self._waiting.extend((parameters, origin) for parameters, origin in event["recipes"])
            elif event["event"] == "asked":
                if self._waiting:
                    self._waiting.popleft()
                self._ask_again(event, event["number"] in told)
            elif event["number"] in self._unfinished:
                self._tell_again(event)
        self._waiting = deque(entry for entry in self._waiting if self._is_possible(entry[0]))
        return bool(events)

    def _ask_again(self, event: Mapping[str, Any], is_told: bool) -> None:
        """Ask as in an earlier session; of what was told since, nobody needs the recipe, so a look at it is enough."""
        number, parameters, moment = event["number"], event["parameters"], self._following(event["known"])
        self._next = number + 1
        if (is_told and self._has_values(parameters)) or self._is_possible(parameters):
            self._begin(Proposal(number, parameters, event["origin"], self.problem, event.get("note", {})), moment)

    def _tell_again(self, event: Mapping[str, Any]) -> None:
        proposal = self._unfinished[event["number"]]
        record = self._archive.trials.get(event["trial"])
        if record is None and event["trial"]:
            return  # its line is damaged: it is judged again
        record = record or self._misfit(proposal)
        self._tell(proposal.number, replace(record, values={**record.values, **decode(event["values"])}))

    def _has_values(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the space still has all of these values, whatever it asks for beside them."""
        return all(
            (values := self.space.values_of(name)) is not None and value in values for name, value in parameters.items()
        )

    def _is_possible(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the space still holds a recipe: a package may have been uninstalled since it was asked for."""
        try:
            self.problem.suggest(parameters)
        except UserError:
            return False
        return True

    def _of_earlier_version(self) -> Iterator[dict[str, Any]]:
        """The proposals of a log that has none of its own: trials with a number were asked for, and told."""
        numbered = [(trial.number, trial) for trial in self._archive if trial.number is not None and not trial.source]
        for number, trial in sorted(numbered, key=lambda entry: entry[0]):
            parameters = self.problem.parameters(Recipe.from_dict(trial.recipe))
            if parameters is not None:
                asked = {"number": number, "origin": trial.origin, "parameters": parameters, "known": -1}
                yield {"event": "asked", **asked}
                yield {"event": "told", "number": number, "trial": trial.key, "values": {}}
