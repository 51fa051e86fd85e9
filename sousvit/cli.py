"""The command line. Every command takes ``--json``; user errors are one line on stderr and exit code 2.

Exit codes: 0 done; 2 bad input; 3 no feasible recipe (the nearest miss is written), or a limit is broken; 4 with
``--strict`` where a limit was not shown to hold; 130 interrupted (resumable).
A command parses, calls a public function of :mod:`sousvit`, and prints what that returns.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from sousvit import __version__
from sousvit.errors import BAD_INPUT, TrialError, UnknownNameError, UserError
from sousvit.faults import told_fault
from sousvit.faults.ulimits import require_ulimits
from sousvit.machine import reserved_stdout

if TYPE_CHECKING:
    from sousvit.result import Result
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback
    from sousvit.search.verdict import Status

INFEASIBLE, NOT_SHOWN, INTERRUPTED = 3, 4, 130
#: Commands that load no model.
LIGHT = frozenset({None, "list", "recipe", "replay", "report", "schema"})

app = typer.Typer(
    name="sousvit",
    help="Compress a Vision Transformer to a hardware budget: the best recipe of combined techniques, exported and\n"
    "measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

#: Where a command with ``--json`` prints.
_OUT: ContextVar[TextIO] = ContextVar("out")


def _reserve_stdout(context: typer.Context, as_json: bool) -> bool:
    """Whatever libraries print must not stand between a program and the JSON that it reads."""
    if as_json:
        _OUT.set(context.with_resource(reserved_stdout()))
    return as_json


Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout", callback=_reserve_stdout)]
Strict = Annotated[bool, typer.Option("--strict", help="exit code 4 where a limit was not shown to hold")]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="folder that holds the run folders")]
RUNS = Path("runs")
RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="run name; the same name again resumes")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="where relative data paths start, if not beside the YAML"),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="plug-ins: file.py, file.py:Class, or a budget; repeatable"),
]
AllowPlugins = Annotated[
    bool, typer.Option("--allow-plugins", help="run the code that a run names, even if you never named it")
]
OtherBudget = Annotated[Path | None, typer.Argument(metavar="BUDGET", help="another budget, if no --prefer")]
Prefer = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="what counts: latency, or latency=2; repeatable"),
]
T = TypeVar("T")


def main() -> None:
    """Entry point: typer with our exit codes."""
    sys.argv[1:] = [_at_home(argument) for argument in sys.argv[1:]]
    try:
        app()
    except UserError as error:
        print(f"sousvit: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except TrialError as error:
        found = told_fault(error) or f"the model could not be built or trained; {error}"
        print(f"sousvit: {found}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        sys.exit(1)


def _at_home(argument: str) -> str:
    """``~`` as the user's home, also in ``--out=~/x`` and in quotes, where shells leave it as it is."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if value != "~" and not value.startswith("~/"):
        return argument
    return f"{option}{equals}{Path(value).expanduser()}"


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    require_ulimits(computing=context.invoked_subcommand not in LIGHT)


@app.command("search")
def search_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML")],
    run: RunName = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="trials at most")] = None,
    time: Annotated[str | None, typer.Option(metavar="TIME", help="search time at most, such as 30m")] = None,
    executor: Annotated[
        str | None, typer.Option(metavar="NAME", help="where trials run: local, ray, or inline (this process)")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="seed of everything random")] = None,
    earlier: Annotated[str | None, typer.Option("--from", metavar="RUN", help="earlier run to continue from")] = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Search for the best recipe within a budget.

    Shows progress, then the final table. Exit code 3: nothing fits.
    """
    from sousvit.api import Search
    from sousvit.search.budget import Budget, require_sound
    from sousvit.search.report.terminal import console, print_answer

    asked = Budget.read(budget, data_root, trials=trials, time=time, seed=seed)
    require_sound(asked)
    folder = _folder(runs, run or _new_name(budget.stem))
    before = None if earlier is None else _folder(runs, earlier)

    def optimize(view: Callback) -> Result:
        told = {"executor": executor, "callbacks": [view], "earlier": before, "allow_plugins": allow_plugins}
        return Search(asked, run=folder, **told).optimize()  # type: ignore[arg-type]

    given = {"trials": trials, "time": time, "seed": seed, "executor": executor, "data-root": data_root}
    command = _command("search", budget, runs, given) + (" --strict" if strict else "")
    result = _watched(optimize, asked, folder, command, as_json)
    if as_json:
        _print_json({"run": str(folder), **result.answer.to_dict()})
    else:
        print_answer(console(), result.answer, asked, folder, folder / "report.html")
    sys.exit(_exit_code(result.status, strict))


@app.command("init")
def init_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="checkpoint, or timm's name")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="folder or file of training images")],
    target: Annotated[str, typer.Option(metavar="TARGET", help="target profile, or a YAML file")] = "local-1-thread",
    out: Annotated[Path, typer.Option(metavar="FILE", help="budget YAML to write")] = Path("budget.yaml"),
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write a first budget for a model and its data, with comments."""
    from sousvit.initial import init

    _load(plugins)
    path = init(model, data, target=target, out=out)
    _print_json({"budget": str(path)}) if as_json else print(f"{path}: look it over, then: sousvit check {path}")


@app.command("check")
def check_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML")],
    sheet: Annotated[Path, typer.Option(metavar="FILE", help="PNG of images as the model sees them")] = Path(
        "check.png"
    ),
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Do what a search does before its first trial, and no more."""
    from sousvit.search.budget import Budget, require_sound
    from sousvit.search.report.terminal import console, print_checked, spinner
    from sousvit.tools import check

    asked = Budget.read(budget, data_root)
    require_sound(asked)
    with spinner("checking", quiet=as_json) as progress:
        checked = check(asked, sheet=sheet, progress=progress)
    _print_json(checked.to_dict()) if as_json else print_checked(console(), checked, asked)


@app.command("schema")
def schema_command(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write instead")] = None,
    as_json: Json = False,
) -> None:
    """Print the JSON schema of budgets, for editors."""
    from sousvit.files import write_atomic
    from sousvit.tools import schema

    text = json.dumps(schema(), indent=1)
    if out is None:
        print(text)
    else:
        write_atomic(out, text)
        _print_json({"schema": str(out)}) if as_json else print(out)


@app.command("study", hidden=True)
@app.command("survey")
def survey_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML; its space says what is measured")],
    run: RunName = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Measure each technique of a space alone, and named combinations.

    Writes a table and a plot of them, all measured in one run.
    """
    from sousvit.api import survey
    from sousvit.search.budget import Budget, require_sound
    from sousvit.search.report.terminal import console

    asked = Budget.read(budget, data_root)
    require_sound(asked)
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
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="YAML that describes a recorded table")],
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a policy, repeatable; default: sousvit, tpe, nsga2, random"),
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, metavar="N", help="evaluations that each policy gets")] = 164,
    seconds: Annotated[
        float | None, typer.Option(min=1, metavar="S", help="recorded seconds that it gets instead")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="replays of each policy")] = 30,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="processes that replay")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for every curve, the table and a plot")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Compare search policies on a recorded table.

    Tells hypervolume against evaluations and time, over many seeds.
    """
    from sousvit.search.replay.compare import markdown
    from sousvit.search.report.terminal import console, spinner
    from sousvit.tools import replay

    _load(plugins)
    amount = {"evaluations": evaluations, "seconds": seconds, "seeds": seeds, "workers": workers}
    with spinner("replaying", quiet=as_json) as progress:
        comparison = replay(table, policy, **amount, out=out, progress=progress)  # type: ignore[arg-type]
    if as_json:
        _print_json(comparison.to_dict())
    else:
        console().print(markdown(comparison), highlight=False)


@app.command("recipe")
def recipe_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished or interrupted run")],
    budget: OtherBudget = None,
    prefer: Prefer = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write the recipe")] = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Answer another budget from a run, without a new search."""
    from sousvit.runs import open_run

    asked = _other_budget(budget, prefer)
    _load(plugins)
    found = open_run(_folder(runs, run), allow_plugins=allow_plugins).answer(asked, prefer=_preference(prefer))
    _give_archive_answer(found, out, strict, as_json)


@app.command("retarget")
def retarget_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished or interrupted run")],
    budget: OtherBudget = None,
    prefer: Prefer = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write the recipe")] = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Answer for other targets from a run, without a new search.

    Measures there the artifacts that the run kept, and trains nothing.
    """
    from sousvit.runs import open_run
    from sousvit.search.report.terminal import spinner

    asked = _other_budget(budget, prefer)
    _load(plugins)
    opened = open_run(_folder(runs, run), allow_plugins=allow_plugins)
    with spinner("asking the devices", quiet=as_json) as progress:
        result = opened.retarget(asked, prefer=_preference(prefer), progress=progress)
    _give_archive_answer(result, out, strict, as_json)


@app.command("apply")
def apply_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe YAML, as a search writes it")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder for the artifact")],
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="checkpoint, or YAML with model, if not the recipe's")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML with data, if not the recipe's")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Reproduce the compressed, exported model of a recipe."""
    from sousvit.search.judging.build import read_data
    from sousvit.search.report.terminal import console, print_applied, spinner
    from sousvit.tools import build

    _load(plugins)
    with spinner("applying the recipe", quiet=as_json) as progress:
        train = None if data is None else read_data(data)
        built = build(recipe, model, out=out, train=train, progress=progress)
    _print_json(built.to_dict()) if as_json else print_applied(console(), built.to_dict())


@app.command("measure")
def measure_command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="artifact folder")],
    baseline: Annotated[Path | None, typer.Option(metavar="ARTIFACT", help="artifact folder to compare with")] = None,
    target: Annotated[str, typer.Option(metavar="TARGET", help="profile, or a YAML file")] = "local-1-thread",
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Measure an artifact: latency, size and memory.

    With intervals; a baseline is timed in turns with it.
    """
    from sousvit.search.report.terminal import console, print_measured, spinner
    from sousvit.tools import measure

    _load(plugins)
    with spinner("measuring", quiet=as_json):
        measured = measure(artifact, baseline=baseline, target=target)
    _print_json(measured.to_dict()) if as_json else print_measured(console(), measured.to_dict())


@app.command("verify")
def verify_command(
    what: Annotated[Path, typer.Argument(metavar="WHAT", help="recipe YAML, artifact folder, or bundle")],
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML: model, data, target and limits")],
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="JUnit XML to write, a test case a limit")] = None,
    data_root: DataRoot = None,
    strict: Strict = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Hold a recipe or artifact against a budget's limits.

    Judges on the test split. Exit code 3: a limit is broken.
    """
    from sousvit.search.budget import Budget
    from sousvit.search.report.terminal import console, print_verification, spinner
    from sousvit.tools import verify

    _load(plugins)
    asked = Budget.read(budget, data_root)
    with spinner("verifying", quiet=as_json) as progress:
        found = verify(what, asked, junit=junit, strict=strict, progress=progress)
    _print_json(found.to_dict()) if as_json else print_verification(console(), found)
    sys.exit(_exit_code(found.status, strict))


@app.command("report")
def report_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file, if not report.html in the run folder")
    ] = None,
    runs: Runs = RUNS,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Write a run's self-contained HTML report."""
    from sousvit.runs import open_run

    _load(plugins)
    found = open_run(_folder(runs, run), allow_plugins=allow_plugins)
    path = found.report(out)
    for entry in found.changed:
        print(f"changed since this run measured it: {entry}", file=sys.stderr)
    _print_json({"report": str(path)}) if as_json else print(path)


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="what to list")],
    plugins: Plugins = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """List techniques, objectives, proposers, targets, spaces or runs."""
    from sousvit import tools
    from sousvit.runs import list_runs
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
    _load(plugins)
    rows = kinds[what]()
    _print_json(rows) if as_json else print_listing(console(), what, rows)


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML with model, data and training")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="safetensors file to write")],
    data_root: DataRoot = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="epochs, if not the YAML's")] = None,
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
        str,
        typer.Argument(metavar="SOURCE", help="file or folder of timm, PyTorch or Hugging Face; hf-hub:owner/model"),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="safetensors file to write")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="timm's name, where the source does not say it")
    ] = None,
    args: Annotated[
        str | None, typer.Option(metavar="YAML", help='timm\'s arguments as YAML, such as "{num_classes: 10}"')
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model of any form as one safetensors file."""
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


device_app = typer.Typer(help="Measure on other devices: run their agent, or check them.", no_args_is_help=True)
app.add_typer(device_app, name="device")


@device_app.command("serve")
def device_serve_command(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="port; 0 takes a free one")] = 8765,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file with the token that clients must give")
    ] = None,
    host_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="another name that the device is reached by; repeatable")
    ] = None,
    max_gb: Annotated[float, typer.Option(min=0.001, metavar="GB", help="most that uploads may take")] = 2.0,
    plugins: Plugins = None,
) -> None:
    """Run the agent that measures on this device, until Ctrl-C.

    Addresses other than loopback need a token.
    """
    from sousvit.objectives.devices.remote.agent import serve

    _load(plugins)
    serve(host, port, token_file, max_gb, host_name or ())


@device_app.command("check")
def device_check_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="target profile, or a YAML file")],
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say what a target's device is, or why it cannot be used."""
    from sousvit.objectives.devices.open import open_device
    from sousvit.objectives.targets.profiles import load_target
    from sousvit.search.report.terminal import console, print_facts

    _load(plugins)
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


def _load(plugins: list[str] | None) -> None:
    """Make known what ``--plugins`` names, for a command that has no budget to name it."""
    if plugins:
        from sousvit.search.plugins import load_named

        load_named(plugins)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _command(verb: str, path: Path, runs: Path, given: Mapping[str, object]) -> str:
    """The command that goes on with this one's options; ``--run`` is added where the run's name is known."""
    given = {**given, "runs": None if runs == RUNS else runs}
    options = (part for name, value in given.items() if value is not None for part in (f"--{name}", str(value)))
    return shlex.join([verb, str(path), *options])


def _exit_code(status: Status, strict: bool) -> int:
    if status == "infeasible":
        return INFEASIBLE
    return NOT_SHOWN if strict and status != "holds" else 0


def _other_budget(budget: Path | None, prefer: list[str] | None) -> Path | None:
    if budget is None and not prefer:
        rule = "a run is asked with another budget or preference"
        raise UserError(rule, "neither", "give a budget YAML, or --prefer latency")
    return budget


def _preference(given: list[str] | None) -> dict[str, float] | None:
    """``latency=2`` as weights; a name alone weighs 1."""
    pairs = [entry.partition("=") for entry in given or ()]
    return {name: _number(text) if equals else 1.0 for name, equals, text in pairs} or None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError("a weight is a number", repr(text), "write for instance --prefer latency=2") from None


def _give_archive_answer(result: Result, out: Path | None, strict: bool, as_json: bool) -> None:
    from sousvit.search.report.terminal import console, print_archive_answer

    answer = result.answer
    if out is not None and answer.chosen is not None:
        result.write_recipe(out)
    if as_json:
        _print_json(answer.to_dict())
    else:
        print_archive_answer(console(), answer, result.budget)
    sys.exit(_exit_code(answer.status, strict))


def _new_name(stem: str) -> str:
    from sousvit.search.archive import new_run_name

    return new_run_name(stem)


def _folder(runs: Path, name: str) -> Path:
    from sousvit.search.archive import run_folder

    return run_folder(runs, name)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str), file=_OUT.get(), flush=True)


if __name__ == "__main__":
    main()
