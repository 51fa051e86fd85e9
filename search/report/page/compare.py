"""Several runs beside each other: their answers in a table, their fronts in one plot, and what makes them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.files import write_atomic
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.identity import noted_inputs
from sousvit.search.report.page.content import Content
from sousvit.search.report.page.gather import gather
from sousvit.search.report.page.render import page

#: Runs on one page, at most: so many colours are told apart.
MOST_RUNS = 8


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: what each run's report shows.
        warnings: what is not alike, so that figures cannot be compared as they stand; a line each.
    """

    runs: tuple[Content, ...]
    warnings: tuple[str, ...]

    @property
    def rows(self) -> list[list[str]]:
        """Run, status, then the answer's figures of merit, speed and size, and its recipe."""
        found = []
        for run in self.runs:
            figures = {one.title: one for one in run.headlines}
            cells = [
                "-" if one is None else f"{one.value} [{one.interval}]" if one.interval else one.value
                for one in (figures.get(title) for title in self.headings[2:-1])
            ]
            found.append([run.name, run.status, *cells, run.recipe or "-"])
        return found

    @property
    def headings(self) -> list[str]:
        """Of :attr:`rows`."""
        titles = dict.fromkeys(one.title for run in self.runs for one in run.headlines)
        return ["run", "status", *titles, "recipe"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"warnings": list(self.warnings), "runs": [run.to_dict() for run in self.runs]}

    def write(self, path: Path) -> Path:
        """Write the page; returns its path."""
        names = ("name", "status", "merit", "axes", "points", "curves")
        data = {"runs": [{name: plain[name] for name in names} for plain in (run.to_dict() for run in self.runs)]}
        write_atomic(path, page("compare.html.j2", False, data, comparison=self))
        return path


def compare(folders: Sequence[Path], opened: Sequence[tuple[Budget, Archive]]) -> Comparison:
    """Runs beside each other, in the order of their folders.

    Args:
        opened: budget and archive of each.

    Raises:
        UserError: fewer than two runs, too many, or one twice.
    """
    if not 2 <= len(folders) <= MOST_RUNS or len(set(folders)) != len(folders):
        rule = f"two to {MOST_RUNS} different runs are compared"
        raise UserError(rule, ", ".join(folder.name for folder in folders), "name others")
    runs = tuple(gather(folder, with_images=False) for folder in folders)
    return Comparison(runs, tuple(_warnings(folders, opened)))


def _warnings(folders: Sequence[Path], opened: Sequence[tuple[Budget, Archive]]) -> list[str]:
    contents = [noted_inputs(folder) for folder in folders]

    def fingerprint(number: int) -> str:
        base = opened[number][1].base
        return "" if base is None else base.fingerprint

    def inputs(kind: str, number: int) -> str:
        found = sorted(f"{role} {content}" for role, content in contents[number].items() if role.startswith(kind))
        return ", ".join(found) or fingerprint(number)

    def machine(number: int) -> str:
        base = opened[number][1].base
        return "" if base is None else str(base.machine.get("cpu", ""))

    asked: dict[str, Callable[[int], str]] = {
        "other bases": lambda number: f"{opened[number][0].model.name} {inputs('model', number)}".strip(),
        "other data": lambda number: inputs("data", number),
        "other targets": lambda number: opened[number][0].where,
        "other machines": machine,
        "other limits": lambda number: ", ".join(map(str, opened[number][0].hard_limits)) or "none",
    }
    found = {what: said for what, of in asked.items() if (said := _differing(folders, of))}
    if not {"other bases", "other data"} & found.keys():  # the same files, of which a budget may take a part
        selection = _differing(folders, fingerprint)
        found |= {"other parts of the same data": selection} if selection else {}
    return [f"{what} ({said})" for what, said in found.items()]


def _differing(folders: Sequence[Path], of: Callable[[int], str]) -> str:
    """Which runs have which value; "" where all have the same."""
    groups: dict[str, list[str]] = {}
    for number, folder in enumerate(folders):
        groups.setdefault(of(number), []).append(folder.name)
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in groups.items()) if len(groups) > 1 else ""
