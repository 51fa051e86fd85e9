"""The contract of a bundle: the folder with everything that is needed to run a compressed model elsewhere.

| file | holds |
|---|---|
| ``model.*``, ``artifact.json`` | the model, and what its runtime must know, as it was measured |
| ``labels.txt`` | a class a line, in the order of the outputs |
| ``predict.py`` | a program from image files to classes: numpy, Pillow and the runtime, nothing of sousvit |
| ``config.json``, ``preprocessor_config.json`` | labels and preprocessing as Hugging Face's libraries read them |
| ``recipe.yaml`` | what was done to the base, for ``sousvit apply`` |
| ``README.md`` | a model card |
| ``pytorch/`` | the weights before quantization, for :func:`sousvit.load_model` |
| ``SHA256SUMS`` | of all of these, for ``sha256sum -c`` |

A bundle is an artifact too: what takes one (``measure``, ``verify``) takes the folder. Nothing in it is run by sousvit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from sousvit.errors import UserError
from sousvit.files import disk_errors_as_user_errors, open_file, write_atomic
from sousvit.search.bundle.card import model_card
from sousvit.search.bundle.facts import Facts
from sousvit.search.bundle.fold import folded
from sousvit.search.bundle.hugging_face import model_config, processor_config
from sousvit.search.bundle.metadata import with_metadata
from sousvit.search.bundle.program import package_of, predict_program
from sousvit.spaces.export.artifact import DESCRIPTION
from sousvit.spaces.weights import WEIGHTS

SUMS = "SHA256SUMS"
_BLOCK = 1 << 20


def write_bundle(facts: Facts, out: Path, uint8: str = "") -> Path:
    """Write the bundle of a model into a new or empty folder, which appears whole or not at all.

    Args:
        facts: the model, and what is known of it.
        uint8: ``nchw`` or ``nhwc``: fold normalisation into the ONNX graph, which then takes pixels in that order.

    Raises:
        UserError: the folder holds something, or steps cannot be folded into this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("a bundle's folder is new or empty", out, "choose another")
    with disk_errors_as_user_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
            made = Path(work) / "bundle"
            _fill(made, facts, uint8)
            made.chmod(0o777 & ~_umask())
            if out.exists():
                out.rmdir()
            made.rename(out)
    return out


def _fill(folder: Path, facts: Facts, uint8: str) -> None:
    source = facts.artifact
    shutil.copytree(source.folder, folder)
    artifact = replace(source, folder=folder)
    if uint8:
        artifact = folded(artifact, uint8)
    with_metadata(artifact, facts.metadata()).save()
    facts = replace(facts, artifact=artifact)
    write_atomic(folder / "labels.txt", "".join(f"{label}\n" for label in facts.labels))
    write_atomic(folder / "recipe.yaml", facts.recipe_file)
    write_atomic(folder / "config.json", json.dumps(model_config(facts), indent=1, ensure_ascii=False))
    processor = processor_config(facts)
    if processor is not None:
        write_atomic(folder / "preprocessor_config.json", json.dumps(processor.values, indent=1))
    if package_of(artifact.runtime) is not None:
        write_atomic(folder / "predict.py", predict_program(artifact, facts.model.detector, facts.transform))
    write_atomic(folder / "README.md", model_card(facts, processor, (folder / WEIGHTS).is_dir()))
    write_atomic(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items()))


def check_sums(folder: Path) -> None:
    """Hold a bundle's files to its check sums; what a reader may well edit, its card, is left out.

    Raises:
        UserError: a file is missing, or has other content.
    """
    path = folder / SUMS
    if not path.is_file():
        raise UserError(f"a bundle is a folder with {SUMS}", folder, "name what sousvit bundle wrote")
    with open_file(path) as stream:
        lines = stream.read(_BLOCK).decode("utf-8", "replace").splitlines()
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _digests(folder)
    wrong = [name for name, digest in known.items() if name != "README.md" and found.get(name) != digest]
    if DESCRIPTION not in known or wrong:
        rule = "a bundle's files are as they were written"
        received = f"{wrong[0]} is missing or has changed" if wrong else f"{SUMS} without {DESCRIPTION}"
        raise UserError(rule, f"{folder}: {received}", "copy the bundle again, or write its sums anew: sha256sum")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path in the folder.

    Raises:
        UserError: links, which lead anywhere, or pipes, which never end.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError("a bundle holds plain files only", path, "put a copy of the file there")
        if path.is_file() and path.name != SUMS:
            digest = hashlib.sha256()
            with open_file(path) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
            found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _umask() -> int:
    """What the process leaves out of new files' permissions: temporary folders are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
