"""Commands about base models: ``train`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sousvit.cli.app import DataRoot, Json, app, print_json


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
        print_json({"checkpoint": str(out), **description})
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
    from sousvit.checked import parse_yaml
    from sousvit.search.report.terminal import spinner
    from sousvit.tools import import_model

    with spinner("importing", quiet=as_json):
        known = {} if args is None else parse_yaml(args, "--args")
        description = import_model({"from": source, "name": name, "args": known}, out=out)
    if as_json:
        print_json({"checkpoint": str(out), **description})
    else:
        for note in description["notes"]:
            print(note)
        print(f"{out}: {description['name']}, {description['args'].get('num_classes', 'its own number of')} classes")
