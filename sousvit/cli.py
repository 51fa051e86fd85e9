"""The command line. Every command takes ``--json``; user errors are one line on stderr and exit code 2.

Exit codes: 0 done; 2 bad input; 3 no feasible recipe (the nearest miss is written); 130 interrupted (resumable).
A command parses, calls a public function of :mod:`sousvit`, and prints what that returns.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sousvit import __version__
from sousvit.errors import TrialError, UnknownNameError, UserError

if TYPE_CHECKING:
    from sousvit.result import Result
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback

BAD_INPUT, INFEASIBLE, INTERRUPTED = 2, 3, 130

app = typer.Typer(
    name="sousvit",
    help="Compress a Vision Transformer to a hardware budget: the best hybrid recipe, exported and measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")]
RUNS = Path("runs")
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="where relative data paths start; default: the YAML's folder")
]
T = TypeVar("T")


def main() -> None:
    """Entry point: typer with our exit codes."""
    try:
        app()
    except UserError as error:
        print(f"sousvit: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except TrialError as error:
        print(f"sousvit: the model could not be built or trained; {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command("search")
def search_command(
    budget: Annotated[Path, typer.Argument(help="budget YAML")],
    run: Annotated[str | None, typer.Option(help="run name; the same name again resumes")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="most trials")] = None,
    time: Annotated[str | None, typer.Option(help="most search time, such as 30m")] = None,
    executor: Annotated[str | None, typer.Option(help="where trials run: local, ray, or inline (this process)")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of everything random")] = None,
    earlier: Annotated[str | None, typer.Option("--from", help="an earlier run to continue from")] = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Search for the best recipe; live progress, then the recipe table. Exit code 3: nothing fits."""
    from sousvit.api import Search
    from sousvit.search.budget import Budget
    from sousvit.search.report.terminal import console, print_answer

    asked = Budget.read(budget, data_root, trials=trials, time=time, seed=seed)
    folder = _folder(runs, run or _new_name(budget.stem))
    before = None if earlier is None else _folder(runs, earlier)

    def optimize(view: Callback) -> Result:
        return Search(asked, run=folder, executor=executor, callbacks=[view], earlier=before).optimize()

    given = {"trials": trials, "time": time, "seed": seed, "executor": executor, "data-root": data_root}
    command = _command("search", budget, runs, given)
    result = _watched(optimize, asked, folder, command, as_json)
    if as_json:
        _print_json({"run": str(folder), **result.answer.to_dict()})
    else:
        print_answer(console(), result.answer, asked, folder, folder / "report.html")
    sys.exit(0 if result.answer.feasible else INFEASIBLE)


@app.command("study", hidden=True)
@app.command("survey")
def survey_command(
    budget: Annotated[Path, typer.Argument(help="budget YAML; its space says which techniques are measured")],
    run: Annotated[str | None, typer.Option(help="run name; the same name again resumes")] = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Measure every technique of the space alone, and named combinations, in one run: a table and a plot."""
    from sousvit.api import survey
    from sousvit.search.budget import Budget
    from sousvit.search.report.terminal import console

    asked = Budget.read(budget, data_root)
    folder = _folder(runs, run or _new_name(f"{budget.stem}-survey"))
    command = _command("survey", budget, runs, {"data-root": data_root})
    found = _watched(lambda view: survey(asked, run=folder, callbacks=[view]), asked, folder, command, as_json)
    if as_json:
        _print_json({"run": str(folder), "trials": [trial.to_dict() for trial in found.archive]})
    else:
        files = {"table": "study.md", "plot": "study.html", "raw": "study.csv"}
        for what, name in files.items():
            console().print(f"{what:<8} {folder / name}", highlight=False)


@app.command("replay")
def replay_command(
    table: Annotated[Path, typer.Argument(help="YAML that describes a recorded table")],
    policy: Annotated[
        list[str] | None, typer.Option(help="may be repeated; default: our search, tpe, nsga2, random")
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, help="that each policy gets")] = 164,
    seconds: Annotated[float | None, typer.Option(min=1, help="of recorded time, instead of evaluations")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    out: Annotated[Path | None, typer.Option(help="folder for every curve, the table and a plot")] = None,
    as_json: Json = False,
) -> None:
    """Replay search policies on a recorded table: hypervolume against evaluations and time, over many seeds."""
    from sousvit.search.replay.compare import markdown
    from sousvit.search.report.terminal import console, spinner
    from sousvit.tools import replay

    amount = {"evaluations": evaluations, "seconds": seconds, "seeds": seeds, "workers": workers}
    with spinner("replaying", quiet=as_json) as progress:
        comparison = replay(table, policy, **amount, out=out, progress=progress)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps(comparison.to_dict()))
    else:
        console().print(markdown(comparison), highlight=False)


@app.command("recipe")
def recipe_command(
    run: Annotated[str, typer.Argument(help="a finished or interrupted run")],
    budget: Annotated[Path, typer.Argument(help="another budget: limits, optimize")],
    out: Annotated[Path | None, typer.Option(help="write the recipe here")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Answer another budget from a run's archive at once, without a new search."""
    from sousvit.runs import open_run

    _give_archive_answer(open_run(_folder(runs, run)).answer(budget), out, as_json)


@app.command("retarget")
def retarget_command(
    run: Annotated[str, typer.Argument(help="a finished or interrupted run")],
    budget: Annotated[Path, typer.Argument(help="another budget: targets, limits, optimize")],
    out: Annotated[Path | None, typer.Option(help="write the recipe here")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Answer for other targets: measure the artifacts that a run kept there, without a new search."""
    from sousvit.runs import open_run
    from sousvit.search.report.terminal import spinner

    with spinner("asking the devices", quiet=as_json) as progress:
        result = open_run(_folder(runs, run)).retarget(budget, progress=progress)
    _give_archive_answer(result, out, as_json)


@app.command("apply")
def apply_command(
    recipe: Annotated[Path, typer.Argument(help="recipe YAML, as a search writes it")],
    out: Annotated[Path, typer.Option(help="folder for the artifact")],
    model: Annotated[str | None, typer.Option(help="checkpoint, or YAML with model; default: the recipe's")] = None,
    data: Annotated[Path | None, typer.Option(help="YAML with data; default: the recipe's")] = None,
    as_json: Json = False,
) -> None:
    """Reproduce the compressed, exported model of a recipe."""
    from sousvit.search.judging.build import read_data
    from sousvit.search.report.terminal import console, print_applied, spinner
    from sousvit.tools import build

    with spinner("applying the recipe", quiet=as_json) as progress:
        train = None if data is None else read_data(data)
        built = build(recipe, model, out=out, train=train, progress=progress)
    _print_json(built.to_dict()) if as_json else print_applied(console(), built.to_dict())


@app.command("measure")
def measure_command(
    artifact: Annotated[Path, typer.Argument(help="artifact folder")],
    baseline: Annotated[Path | None, typer.Option(help="artifact folder to compare with")] = None,
    target: Annotated[str, typer.Option(help="target profile, or a YAML file")] = "local-1-thread",
    as_json: Json = False,
) -> None:
    """Measure an artifact's latency, size and memory with intervals, interleaved with a baseline."""
    from sousvit.search.report.terminal import console, print_measured, spinner
    from sousvit.tools import measure

    with spinner("measuring", quiet=as_json):
        measured = measure(artifact, baseline=baseline, target=target)
    _print_json(measured.to_dict()) if as_json else print_measured(console(), measured.to_dict())


@app.command("report")
def report_command(
    run: Annotated[str, typer.Argument(help="a run")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run folder")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a run's self-contained HTML report."""
    from sousvit.runs import open_run

    found = open_run(_folder(runs, run))
    path = found.report(out)
    for entry in found.changed:
        print(f"changed since this run measured it: {entry}", file=sys.stderr)
    _print_json({"report": str(path)}) if as_json else print(path)


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="techniques, objectives, proposers, targets, spaces or runs")],
    budget: Annotated[Path | None, typer.Option(help="a budget whose plug-ins are listed too")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """List what there is, plug-ins included."""
    from sousvit import tools
    from sousvit.runs import list_runs
    from sousvit.search.budget import Budget
    from sousvit.search.report.terminal import console, print_listing

    kinds: dict[str, Callable[[], list[dict[str, str]]]] = {
        "techniques": tools.list_techniques,
        "objectives": tools.list_objectives,
        "proposers": tools.list_proposers,
        "targets": tools.list_targets,
        "spaces": tools.list_spaces,
        "runs": lambda: list_runs(runs),
    }
    if what not in kinds:
        raise UnknownNameError("what to list", what, kinds)
    if budget is not None:
        Budget.read(budget)  # loads its plug-ins
    rows = kinds[what]()
    _print_json(rows) if as_json else print_listing(console(), what, rows)


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(help="YAML with model, data and training")],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
    data_root: DataRoot = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="instead of the YAML's")] = None,
    as_json: Json = False,
) -> None:
    """Train or fine-tune a base model."""
    from sousvit.search.report.terminal import spinner, training_progress
    from sousvit.spaces.training.base import read_training, train_base

    spec = read_training(config, data_root, epochs)
    with spinner("training", quiet=as_json) as progress:
        description = train_base(spec, out, training_progress(progress), say=progress.say)
    if as_json:
        _print_json({"checkpoint": str(out), **description})
    else:
        shares = [name for name in description if name.startswith(("validation_", "test_"))]
        figures = ", ".join(f"{name} {description[name]:.2%}" for name in shares)
        print(f"{out}: {figures}")


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(help="file or folder of timm, PyTorch or Hugging Face, hf-hub:owner/model, or timm's name")
    ],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
    name: Annotated[str | None, typer.Option(help="timm's name, where the source does not say it")] = None,
    args: Annotated[str | None, typer.Option(help='timm\'s arguments as YAML, such as "{num_classes: 10}"')] = None,
    as_json: Json = False,
) -> None:
    """Write a model of any form as one safetensors file that describes itself."""
    from sousvit.schema import parse_yaml
    from sousvit.search.report.terminal import spinner
    from sousvit.tools import import_model

    with spinner("importing", quiet=as_json):
        known = {} if args is None else parse_yaml(args, "--args")
        description = import_model({"from": source, "name": name, "args": known}, out=out)
    if as_json:
        _print_json({"checkpoint": str(out), **description})
    else:
        for note in description["notes"]:
            print(note)
        print(f"{out}: {description['name']}, {description['args'].get('num_classes', 'its own number of')} classes")


device_app = typer.Typer(
    help="Measure on other devices: the agent that runs there, and its check.", no_args_is_help=True
)
app.add_typer(device_app, name="device")


@device_app.command("serve")
def device_serve_command(
    host: Annotated[str, typer.Option(help="address to listen on; others than loopback need a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8765,
    token_file: Annotated[Path | None, typer.Option(help="file with the token that clients must give")] = None,
    max_gb: Annotated[float, typer.Option(min=0.001, help="of uploaded files")] = 2.0,
) -> None:
    """Run the agent on this device: it takes artifacts and times them, until Ctrl-C."""
    from sousvit.objectives.devices.remote.agent import serve

    serve(host, port, token_file, max_gb)


@device_app.command("check")
def device_check_command(
    target: Annotated[str, typer.Argument(help="target profile, or a YAML file")], as_json: Json = False
) -> None:
    """Ask a target's device what it is; one clear line where it cannot be used."""
    from sousvit.objectives.devices.open import open_device
    from sousvit.objectives.targets.profiles import load_target
    from sousvit.search.report.terminal import console, print_facts

    profile = load_target(target)
    facts = open_device(profile).check()
    _print_json({"target": str(profile), **facts}) if as_json else print_facts(console(), str(profile), facts)


def _watched(run: Callable[[Callback], T], budget: Budget, folder: Path, command: str, quiet: bool) -> T:
    """Run with live progress; interrupted, it says how to resume and ends with exit code 130."""
    from sousvit.search.report.terminal import SearchView, console

    before = signal.signal(signal.SIGTERM, _interrupt)  # Slurm and Kubernetes send it; background jobs ignore Ctrl-C
    view = SearchView(budget, folder, quiet=quiet)
    try:
        with view:
            return run(view)
    except KeyboardInterrupt:
        resume = f"interrupted; resume with: sousvit {command} --run {shlex.quote(folder.name)}"
        console(stderr=True).print(resume, highlight=False)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _command(verb: str, path: Path, runs: Path, given: Mapping[str, object]) -> str:
    """The command that goes on with this one's options; ``--run`` is added where the run's name is known."""
    given = {**given, "runs": None if runs == RUNS else runs}
    options = (part for name, value in given.items() if value is not None for part in (f"--{name}", str(value)))
    return shlex.join([verb, str(path), *options])


def _give_archive_answer(result: Result, out: Path | None, as_json: bool) -> None:
    from sousvit.search.report.terminal import console, print_archive_answer

    answer = result.answer
    if out is not None and answer.chosen is not None:
        result.write_recipe(out)
    if as_json:
        _print_json(answer.to_dict())
    else:
        print_archive_answer(console(), answer, result.budget)
    sys.exit(0 if answer.feasible else INFEASIBLE)


def _new_name(stem: str) -> str:
    from sousvit.search.archive import new_run_name

    return new_run_name(stem)


def _folder(runs: Path, name: str) -> Path:
    from sousvit.search.archive import run_folder

    return run_folder(runs, name)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


if __name__ == "__main__":
    main()
