"""A workshop: a base with its images, where recipes are built, exported and judged one by one, without a search."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sousvit.inputs import INPUTS, data_input, model_input
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.objectives.tasks.task import Evaluation
    from sousvit.search.executors.executor import Progress
    from sousvit.spaces.export.artifact import Artifact
    from sousvit.spaces.shape import ModelShape
    from sousvit.specs import ModelSpec

Part = Literal["train", "validation", "test"]


class Workshop:
    """A base with its images, where recipes are built, exported and judged one after another.

    What recipes share is made once: the beginning of their steps, a recovered model, synthesised images, what the base
    says of the training images. For instance::

        workshop = sousvit.Workshop("base.safetensors", train="data/train", test="data/test")
        base = workshop.evaluate(sousvit.Recipe())
        for keep in (0.75, 0.5):
            judged = workshop.evaluate(sousvit.Recipe([PruneMlp(keep=keep), Int8Dynamic()]))
            print(keep, judged.merit(), judged.merit_drop(base))

    Args:
        model: as for :func:`sousvit.compress`.
        train: as for :func:`sousvit.compress`; None synthesises images.
        validation: as for :func:`sousvit.compress`.
        test: as for :func:`sousvit.compress`.
        seed: of everything random.
        cache: a folder that keeps what recipes share for later; by default a temporary one.
        progress: told what is being done.
        threads: to compute on; by default one a core.

    Raises:
        UserError: wrong model or data.
    """

    def __init__(
        self,
        model: nn.Module | str | Path | Mapping[str, Any] | ModelSpec,
        *,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        seed: int = 0,
        cache: str | Path | None = None,
        progress: Progress | None = None,
        threads: int | None = None,
    ) -> None:
        from sousvit.cache import TensorCache
        from sousvit.models.load import load
        from sousvit.search.judging.build import Workshop as Shop

        self._temporary = tempfile.TemporaryDirectory(prefix="sousvit-workshop-")
        folder = Path(self._temporary.name) if cache is None else Path(cache)
        spec, base = model_input(model, folder / INPUTS)
        data = data_input(train, validation, test, folder / INPUTS)
        self._shop = Shop(base or load(spec), data, seed, TensorCache(folder), progress, threads)

    @property
    def base(self) -> nn.Module:
        """The uncompressed model."""
        return self._shop.base.module

    @property
    def shape(self) -> ModelShape:
        """The base's shape: ``recipe.reshape(workshop.shape)`` has a recipe's ``macs()`` and ``params()``."""
        return self._shop.shape

    def model(self, recipe: Recipe, fidelity: float = 1.0) -> nn.Module:
        """The recipe's module before quantization.

        Args:
            recipe: to be built.
            fidelity: share of its recovery epochs.

        Raises:
            UserError: the recipe does not fit the base.
            TrialError: it cannot be built.
        """
        return self._shop.model(recipe, fidelity)

    def export(
        self, out: str | Path, recipe: Recipe | None = None, *, model: nn.Module | None = None, fidelity: float = 1.0
    ) -> Artifact:
        """A recipe's artifact, in the folder ``out``, which is replaced where it exists.

        Args:
            out: the artifact's folder.
            recipe: by default the base's, in ONNX Runtime fp32.
            model: a module to be exported and quantized instead of the one that the recipe's other steps make, such as
                one that was trained further.
            fidelity: share of the recovery epochs.

        Raises:
            UserError: the recipe does not fit the base, or the disk does not take the files.
            TrialError: it cannot be built or exported.
        """
        return self._shop.export(recipe or Recipe(), Path(out), fidelity, model)

    def evaluate(
        self,
        judged: Recipe | Artifact | nn.Module,
        part: Part = "validation",
        *,
        limit: int | None = None,
        fidelity: float = 1.0,
    ) -> Evaluation:
        """What a recipe's artifact, another artifact, or a module in PyTorch predicts on a part of the images.

        ``.merit()`` is top-1 (mAP50 of a detector) with its 95% interval, ``.merit_drop(base)`` how much lower it is
        than another evaluation's on the same images, paired.

        Args:
            judged: a recipe is built and exported; an artifact runs in its own runtime.
            part: ``train``, ``validation`` or ``test``.
            limit: at most so many images, drawn at random, always the same ones.
            fidelity: share of a recipe's recovery epochs.

        Raises:
            UserError: there is no such part.
            TrialError: it cannot be built, or its predictions are not finite.
        """
        images = self._images(part, limit)
        if not isinstance(judged, Recipe):
            return self._shop.evaluate(judged, images)
        with tempfile.TemporaryDirectory(prefix="sousvit-workshop-") as folder:
            model = self.model(judged, fidelity)
            artifact = self._shop.export(judged, Path(folder) / "artifact", fidelity, model)
            return self._shop.evaluate(artifact, images, model)

    def images(self, part: Part = "train", limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A part's images as the model takes them, float32 ``[N, C, H, W]``, and their labels ``[N]``.

        Args:
            part: ``train``, ``validation`` or ``test``.
            limit: at most so many, drawn at random, always the same ones.

        Raises:
            UserError: there is no such part.
        """
        found = self._images(part, limit)
        return self._shop.base.normalise(found.images()), found.labels

    def _images(self, part: Part, limit: int | None) -> ImageSet:
        found = self._shop.part(part)
        return found if limit is None else found.spread(limit)
