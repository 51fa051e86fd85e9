"""Commands about bundles: ``bundle`` and ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sousvit.cli.app import RUNS, AllowPlugins, Json, Plugins, Runs, app, load_plugins, print_json, run_path
from sousvit.errors import UserError


@app.command("bundle")
def bundle_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished or interrupted run")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write, new or empty")],
    trial: Annotated[
        str | None, typer.Option(metavar="KEY", help="a trial of the run instead of its answer; a beginning will do")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="every member of the front, a folder each")] = False,
    uint8: Annotated[
        str | None, typer.Option(metavar="ORDER", help="fold normalisation into an ONNX graph: nchw or nhwc pixels")
    ] = None,
    runs: Runs = RUNS,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Write what a deploy engineer needs: model, labels, program, card.

    Of the run's answer, of a trial, or of the whole front.
    """
    from sousvit.runs import open_run

    if front and trial is not None:
        raise UserError("a bundle is of one thing", "--trial and --front", "leave one of them out")
    load_plugins(plugins)
    opened = open_run(run_path(runs, run), allow_plugins=allow_plugins)
    if front:
        written = opened.bundle_front(out, uint8=uint8)
    else:
        result = opened.trial(trial) if trial is not None else opened.result
        if result is None:
            raise UserError("a run has an answer once it has finished", run, "resume it, or name a --trial")
        written = [result.bundle(out, uint8=uint8)]
    if as_json:
        print_json({"bundles": [str(path) for path in written]})
    else:
        for path in written:
            print(f"{path}: see its README.md")


@app.command("predict")
def predict_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder that sousvit bundle wrote")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="image files")],
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Tell the classes of images, or the objects on them, by a bundle."""
    from sousvit.tools import predict

    load_plugins(plugins)
    found = predict(bundle, images)
    if as_json:
        print_json([{"image": str(path), "found": [one.to_dict() for one in rows]} for path, rows in found])
        return
    for path, rows in found:
        for one in rows if any(row.box for row in rows) else rows[:1]:
            values = (one.score, *(one.box or ()))
            print(path, one.label, *(f"{value:.4g}" for value in values), sep="\t")
