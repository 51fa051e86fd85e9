"""How often an answer holds its limit on images that nobody used, with and without images held back to confirm it.

    python benchmarks/limits_hold/run.py

Searches are drawn from ``pool.npz`` (:mod:`pool`: real models, image by image): each has its own validation images and
its own candidates, and its answer comes from the code that ends every search. It then reads all images that it was not
given. Writes ``raw.csv`` (a row a search) and ``result.md``. It takes that code from inside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sousvit.objectives.objective import Measurement
from sousvit.objectives.tasks.classification import TopOneEvaluation, paired_difference, wilson
from sousvit.search.archive import Archive
from sousvit.search.budget import CONFIRM, SearchLimits
from sousvit.search.callbacks import Callback
from sousvit.search.confirmation import confirmed_answer
from sousvit.search.executors.executor import Verify
from sousvit.search.executors.simulated import SimulatedExecutor
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.results import choose
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

Correct = npt.NDArray[np.bool_]

#: Losses that a search may be allowed: each draws its own, so that candidates lie on both sides close to it.
LEAST, MOST = 0.004, 0.03
VALIDATION = (1000, 2000, 5000)
CONFIDENCE = SearchLimits().confidence


@dataclass(frozen=True)
class Pool:
    """Whether each image is classified rightly: ``base [images]``, ``correct [recipes, images]``; what each costs.

    ``latency`` is each recipe's, relative to the base's (:mod:`costs`), NaN where that was not measured.
    """

    base: Correct
    correct: Correct
    costs: list[dict[str, Any]]
    provenance: str
    latency: list[float]

    @classmethod
    def read(cls, path: Path) -> Pool:
        """The pool in a file that :mod:`pool` wrote."""
        with np.load(path) as stored:
            count, facts = int(stored["count"]), json.loads(str(stored["facts"]))
            base = np.unpackbits(stored["base"])[:count].astype(bool)
            correct = np.unpackbits(stored["correct"], axis=1)[:, :count].astype(bool)
        hashes = [Recipe.from_dict(costs["recipe"]).hash for costs in facts["figures"][1:]]
        timed = path.with_name("costs.csv")
        ratios = pd.read_csv(timed).set_index("recipe").ratio if timed.is_file() else pd.Series(np.nan, hashes)
        latency = [float(ratios[name]) for name in hashes]
        return cls(base, correct, facts["figures"], facts["provenance"], latency)

    def figures(self, recipe: int, images: npt.NDArray[np.int64]) -> dict[str, Measurement]:
        """What a trial of ``recipe`` gives that is judged on ``images``."""
        base, own = self.base[images], self.correct[recipe][images]
        macs, of_base = self.costs[recipe + 1]["macs"], self.costs[0]["macs"]
        drop = Measurement(*paired_difference(_evaluation(base), _evaluation(own)))
        return {"accuracy_drop": drop, "macs": Measurement(macs), "macs_ratio": Measurement(macs / of_base)}


def _evaluation(correct: Correct) -> TopOneEvaluation:
    return TopOneEvaluation(correct.astype(np.int64), np.ones(len(correct), np.int64))


def main() -> None:
    """Search, count, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=120, help="with each size of validation")
    parser.add_argument("--candidates", type=int, default=60, help="of each search")
    parser.add_argument("--pool", type=Path, default=Path(__file__).with_name("pool.npz"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--confirm", type=float, nargs="+", default=[0.0, CONFIRM])
    given = parser.parse_args()
    pool = Pool.read(given.pool)
    rows = []
    for size, seed in itertools.product(VALIDATION, range(given.searches)):
        chance = np.random.default_rng([seed, size])
        limit = chance.uniform(LEAST, MOST)
        images, candidates = chance.permutation(len(pool.base)), chance.permutation(len(pool.correct))
        for share in given.confirm:
            found = searched(pool, candidates[: given.candidates], images[:size], images[size:], limit, share)
            rows.append({"limit": limit, "validation": size, "seed": seed, "confirm": share, **found})
    frame = pd.DataFrame(rows)
    frame.round(5).to_csv(given.out / "raw.csv", index=False)
    command = f"python benchmarks/limits_hold/run.py --searches {given.searches} --candidates {given.candidates}"
    command += f" --confirm {' '.join(f'{share:g}' for share in given.confirm)}"
    text = "\n".join([*provenance(command), *summary(frame, pool)]) + "\n"
    write_result(given.out / "result.md", text)
    print(text)


def searched(
    pool: Pool,
    candidates: npt.NDArray[np.int64],
    given: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.int64],
    limit: float,
    share: float,
) -> dict[str, Any]:
    """One search: trials judged on some of the ``given`` images, the answer confirmed on the rest of them."""
    held_back, judging = np.split(given, [round(share * len(given))])
    base = BaseRecord({"macs": Measurement(pool.costs[0]["macs"])}, {}, {}, num_unseen=len(held_back))
    goals = Goals(parse_limits({"accuracy_drop": limit}, CONFIDENCE), {"macs": 1.0}, base.values)
    recipes = {int(place): Recipe.from_dict(pool.costs[place + 1]["recipe"]) for place in candidates}
    places = {recipe.hash: place for place, recipe in recipes.items()}

    def verify(request: Verify) -> dict[str, Measurement]:
        return pool.figures(places[Recipe.from_dict(request.recipe).hash], held_back)

    with tempfile.TemporaryDirectory() as folder, closing(Archive(Path(folder), writable=True)) as archive:
        archive.append("base", base=base.to_dict())
        for place, recipe in recipes.items():
            archive.add(replace(Trial.pending(recipe, 1.0, 0), status="complete", values=pool.figures(place, judging)))
        executor = SimulatedExecutor(base, lambda job: NotImplemented, answers={Verify: verify})
        # With nothing held back, as every search ended before: the best of those that hold the limit on validation.
        answer = confirmed_answer(archive, goals, CONFIDENCE, executor, Callback()) if share else choose(archive, goals)
        tried = archive.num_tried
    if answer.chosen is None or not answer.feasible:
        return {"answer": "infeasible", "tried": tried}
    place = places[answer.chosen.parsed.hash]
    confirmed = answer.confirmation is not None and answer.confirmation.holds
    drop = pool.base[fresh].mean() - pool.correct[place][fresh].mean()
    return {
        "answer": "confirmed" if confirmed and share else "not confirmed",
        "tried": tried,
        "judged_drop": answer.chosen.get("accuracy_drop"),
        "fresh_drop": drop,
        "fresh_holds": drop <= limit,
        "macs_ratio": answer.chosen.get("macs_ratio"),
        "latency_ratio": pool.latency[place],
    }


def summary(frame: pd.DataFrame, pool: Pool) -> list[str]:
    """Shares with their 95% Wilson intervals, and costs."""
    of_base = f"base {100 * pool.base.mean():.2f}% top-1"
    lines = [
        f"Pool: {len(pool.correct)} recipes, {len(pool.base):,} images, {of_base}. {pool.provenance}",
        "",
        f"One-sided confidence {CONFIDENCE:g}. *Hold*: answers whose loss on images that nobody used is within the",
        "limit; of searches that hold images back, the confirmed ones. *Others*: the unconfirmed that hold it. *MACs*:",
        "geometric mean, relative to the base. *Paid*: MACs and latency of the confirmed answers, relative to what the",
        "same searches answer when they hold nothing back. *Tried*: recipes, on the images held back.",
        "",
        "| held back | validation | limit | searches | answers that hold | confirmed | others | MACs | paid in MACs "
        "| in latency | tried |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    groups: list[tuple[Any, Any, pd.DataFrame]] = [("all", "all", frame)]
    groups += [(size, "all", part) for size, part in frame.groupby("validation")]
    middle = (LEAST + MOST) / 2
    groups += [("all", f"below {100 * middle:g} points", frame[frame.limit < middle])]
    groups += [("all", f"above {100 * middle:g} points", frame[frame.limit >= middle])]
    for size, limit, part in groups:
        plain = part[part.confirm == 0].set_index(["limit", "validation", "seed"])
        for share, rows in part.groupby("confirm"):
            lines.append(f"| {share:g} | {size} | {limit} | {' | '.join(_cells(rows, plain, share > 0))} |")
    return lines


def _cells(rows: pd.DataFrame, plain: pd.DataFrame, confirmed: bool) -> list[str]:
    counted = rows[rows.answer == ("confirmed" if confirmed else "not confirmed")]
    holding, count = int(counted.fresh_holds.astype(bool).sum()), len(counted)
    low, high = wilson(holding, count) if count else (0.0, 1.0)
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    share = f"{holding} of {count}: **{100 * holding / max(1, count):.1f}%** {interval}"
    before = plain.reindex(pd.MultiIndex.from_frame(counted[["limit", "validation", "seed"]]))
    own = counted.macs_ratio.to_numpy(float)
    paid = " | ".join(_paid(counted, before, name) if confirmed else "-" for name in ("macs_ratio", "latency_ratio"))
    part = f"{100 * count / len(rows):.0f}%" if confirmed else "-"
    others = rows[rows.answer == "not confirmed"].fresh_holds
    part += f" | {int(others.astype(bool).sum())} of {len(others)}" if confirmed else " | -"
    return [str(len(rows)), share, part, f"{np.exp(np.log(own).mean()):.3f}", paid, f"{rows.tried.mean():.2f}"]


def _paid(counted: pd.DataFrame, before: pd.DataFrame, name: str) -> str:
    ratios = counted[name].to_numpy(float) / before[name].to_numpy(float)
    return f"{np.exp(np.nanmean(np.log(ratios))):.3f}x" if np.isfinite(ratios).any() else "-"


if __name__ == "__main__":
    main()
