"""Traces of searches: what is judged, in which order, with which figures. A change of structure leaves them equal.

``python tests/search/traces.py FILE`` writes them, and ``--check FILE`` compares. The model-based proposer's choices
depend on the last bits of linear algebra, hence on the machine: record and compare on the same one. The others are
compared with ``traces.json`` by a test.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from sousvit.files import content_hash
from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.replay.policies import ABLATIONS, POLICIES, Replay
from sousvit.search.replay.table import Table
from sousvit.search.run import make_engine
from sousvit.search.trial import Trial
from sousvit.spaces.space import make_space, read_space

sys.path.insert(0, str(Path(__file__).parent))
from simulation import Simulation, base_record, simulated_budget, tiny_shape

TABLE = Path(__file__).parents[2] / "benchmarks" / "recorded_table" / "fashion-mnist.yaml"
STORED = Path(__file__).with_name("traces.json")


def line(trial: Trial) -> str:
    """A trial's recipe, rung, status and figures in a word."""
    figures = {name: repr(value.value) for name, value in sorted(trial.values.items())}
    return f"{content_hash(trial.recipe)[:10]} {trial.fidelity:.4g} {trial.status} {content_hash(figures)[:6]}"


def replayed(policy: str, seed: int, evaluations: int = 60) -> Iterable[Trial]:
    """What a policy evaluates on the recorded table."""
    run = Replay(Table.read(TABLE), evaluations, seed)
    (POLICIES | ABLATIONS)[policy](run)
    return run.found


def simulated(workers: int = 1, **changes: object) -> Iterable[Trial]:
    """A search in a made-up world."""
    shape = tiny_shape()
    budget = simulated_budget(**changes)
    base = base_record(shape)
    clock = SimulatedClock()
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder), writable=True)
        archive.append("base", base=base.to_dict())
        executor = SimulatedExecutor(base, Simulation(shape, budget).judge, clock, workers=workers)
        space, _ = make_space(read_space(budget.space), shape, budget.runtimes)
        engine = make_engine(budget, archive, executor, base, shape, space, Callback(), clock, with_study=False)
        engine.run()
        archive.close()
        return list(archive)


def ladders(proposer: str) -> dict[str, Callable[[], Iterable[Trial]]]:
    """A search per fidelity policy."""
    search = {"trials": 80, "proposer": proposer}
    return {
        f"{proposer} halving": partial(simulated, search=search),
        f"{proposer} untrained": partial(simulated, search={**search, "explore_fidelity": 0.0}),
        f"{proposer} long ladder": partial(simulated, search={**search, "explore_fidelity": 0.05, "eta": 2.0}),
        f"{proposer} full only": partial(simulated, search={**search, "explore_fidelity": 1.0}),
        f"{proposer} three workers": partial(simulated, 3, search={**search, "explore_fidelity": 0.0}),
        f"{proposer} infeasible": partial(simulated, limits={"accuracy_drop": 0.0001, "size": 0.01}, search=search),
        f"{proposer} one objective": partial(simulated, optimize=["size"], search={**search, "time": 300}),
        f"{proposer} no limits": partial(simulated, limits={}, optimize={"eer": 2.0, "latency": 1.0}, search=search),
    }


#: Those that every machine gives alike.
PORTABLE = {
    **ladders("tpe"),
    **ladders("nsga2"),
    **{f"table {policy}": partial(replayed, policy, 0) for policy in ("tpe", "nsga2", "random", "no-model")},
}
#: Those that are compared on one machine.
MODEL_BASED = {
    **ladders("auto"),
    **{
        f"table {policy} {seed}": partial(replayed, policy, seed)
        for policy in ("sousvit", "no-rungs", "no-untrained-rung")
        for seed in (0, 1)
    },
}


def record(scenarios: dict[str, Callable[[], Iterable[Trial]]]) -> dict[str, list[str]]:
    """The lines of every scenario."""
    return {name: [line(trial) for trial in run()] for name, run in scenarios.items()}


def main(arguments: list[str]) -> int:
    """Write or compare all traces."""
    check, path = arguments[0] == "--check", Path(arguments[-1])
    found = record(PORTABLE | MODEL_BASED)
    if not check:
        path.write_text(json.dumps(found, indent=0))
        STORED.write_text(json.dumps({name: found[name] for name in PORTABLE}, indent=0))
        return 0
    known = json.loads(path.read_text())
    different = [name for name in known if found.get(name) != known[name]]
    print(f"{len(known) - len(different)} of {len(known)} traces are equal", *different, sep="\n")
    return bool(different)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
