"""Any source of a model, opened by its form: one file of this folder a form.

| source | form |
|---|---|
| ``hf-hub:owner/model``, ``local-dir:path`` | a folder, of the hub's cache or of this machine |
| a folder with ``config.json`` | timm's where it names an ``architecture``, else Hugging Face's |
| ``.safetensors`` | ours or bare; Hugging Face's where ``config.json`` lies beside it |
| ``.pth``, ``.pt``, ``.bin``, ``.tar``, ``.ckpt`` | what ``torch.save`` wrote |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sousvit.errors import UserError, one_line
from sousvit.files import open_file, require_file
from sousvit.models.checkpoints import hub, hugging_face, safetensors_file, timm_folder, torch_file
from sousvit.models.checkpoints.checkpoint import Imported, Tensors, read_json
from sousvit.text.paths import absolute

LOCAL = "local-dir:"
CONFIG = "config.json"
#: Files of a Hugging Face folder that may be named in its place.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_OF_A_FOLDER = (*_WHOLE, *(f"{name}.index.json" for name in _WHOLE))
_SUFFIXES = (".safetensors", *torch_file.SUFFIXES)


def is_source(text: str) -> bool:
    """Whether ``text`` can only mean a file, a folder or a model of the hub, and no name of timm's."""
    if text.startswith((*hub.PREFIXES, LOCAL, "~", ".")) or "/" in text or "\\" in text:
        return True
    return text.lower().endswith((*_SUFFIXES, ".json"))


def resolved_source(source: str, folder: Path) -> str:
    """``source`` with an absolute path, which starts in ``folder``; names of the hub stay."""
    if source.startswith(hub.PREFIXES):
        return source
    # Links are not followed: what a cache links to has another name, and nothing lies beside it.
    return absolute(source.removeprefix(LOCAL), folder)


def open_source(source: str) -> Imported:
    """The checkpoint at ``source``.

    Args:
        source: as :func:`resolved_source` gives it.

    Raises:
        UserError: nothing there, no form that is known, or one that is broken or cannot be read.
    """
    path = hub.fetched(source) if source.startswith(hub.PREFIXES) else Path(source)
    with _as_user_errors(path):
        found = _open(path)

    def tensors() -> Tensors:
        with _as_user_errors(path):
            return found.tensors()

    return replace(found, tensors=tensors)


@contextmanager
def _as_user_errors(path: Path) -> Iterator[None]:
    """What reading a checkpoint fails with, as one line.

    Converters take a description at its word. One with a text in the place of a number, or with numbers that its
    tensors contradict, fails in them in ways that nobody lists.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        rule, action = "a checkpoint must be readable", "mount it, or change its permissions"
        raise UserError(rule, f"{path}: {error.strerror or error}", action) from error
    except Exception as error:
        rule, action = "a checkpoint's description and tensors fit each other", "repair it, or fetch it again"
        raise UserError(rule, f"{one_line(error)} in {path}", action) from error


def _open(path: Path) -> Imported:
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise UserError("a checkpoint must exist", path, "correct the path; models of the hub are hf-hub:owner/model")
    require_file(path)
    if path.name == CONFIG:
        return _open_folder(path.parent)
    in_folder = path.name in _OF_A_FOLDER and (path.parent / CONFIG).is_file()
    if in_folder and not (path.suffix == ".safetensors" and safetensors_file.read_checkpoint_metadata(path)):
        return _open_folder(path.parent)
    if path.suffix == ".safetensors" or not _pickled(path):
        return safetensors_file.open_file(path)
    return torch_file.open_file(path)


def _pickled(path: Path) -> bool:
    """Whether a file is what ``torch.save`` writes, by its ending or else by its first bytes."""
    if path.suffix.lower() in torch_file.SUFFIXES:
        return True
    with open_file(path) as stream:
        return stream.read(2)[:2] in (b"PK", b"\x80\x02")


def _open_folder(folder: Path) -> Imported:
    if not (folder / CONFIG).is_file():
        files = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES)
        if len(files) == 1:
            return _open(files[0])
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        action = "name the folder or the file that holds the model"
        raise UserError(f"a model's folder holds {CONFIG} or one file of weights", f"{found} in {folder}", action)
    config = read_json(folder / CONFIG, CONFIG)
    if "architecture" in config:
        return timm_folder.open_folder(folder, config)
    return hugging_face.open_folder(folder, config)
