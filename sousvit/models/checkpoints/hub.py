"""Models of the Hugging Face hub by name, ``hf-hub:owner/model``, as folders of its cache."""

from __future__ import annotations

from pathlib import Path

from sousvit.errors import UserError, one_line

PREFIXES = ("hf-hub:", "hf_hub:")
#: What a model's folder is read for; weights in safetensors are preferred.
_DESCRIPTIONS = ["config.json", "preprocessor_config.json"]
_WEIGHTS = (["model.safetensors", "model-*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin*"])


def cached_folder(source: str) -> Path | None:
    """The folder of a model of the hub in the cache of this machine, or None; nothing is downloaded."""
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition(":")[2].partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except Exception:  # the hub's errors: not there, or no name
        return None


def fetched(source: str) -> Path:
    """The folder of a model of the hub; what is not in the cache is downloaded.

    Args:
        source: ``hf-hub:owner/model``, or ``hf-hub:owner/model@revision``.

    Raises:
        UserError: no such model, or it is not in the cache and the hub is out of reach.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition(":")[2].partition("@")
    try:
        for weights in _WEIGHTS:
            found = snapshot_download(name, revision=revision or None, allow_patterns=[*_DESCRIPTIONS, *weights])
            folder = Path(found)
            if any(folder.glob(weights[0])) or any(folder.glob(weights[-1])):
                break
    except Exception as error:  # the hub's errors, the network's, and those of a name that is none
        raise UserError(
            f"{source} must be in the hub, or in its cache on this machine",
            one_line(error).partition(". ")[0],
            "correct the name, allow the network, or name a local folder",
        ) from error
    return folder
