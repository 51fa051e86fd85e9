"""Needs of a technique: installed packages, models that it fits, images, and company in a recipe."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sousvit.errors import MissingPackageError
from sousvit.spaces.shape import OtherShape

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape


@dataclass(frozen=True)
class Needs:
    """What must be there, or must not, for a technique to work.

    For instance ``Needs(plain_vit=False, linear=True, packages=("openvino", "nncf"), extra="openvino")`` of a quantizer
    that takes any network with a linear layer. Runtimes are not among them: a technique's :meth:`.suits` tells those.

    Attributes:
        plain_vit: whether the model must be a plain Vision Transformer. Methods of such a technique are given a
            VitShape, those of others any ModelShape.
        linear: whether it acts on linear layers besides the classifier, and on nothing else.
        equal_blocks: whether all blocks must be alike, so that no step before it may decide widths by data.
        images: whether what it does depends on images. Where a user has none, a recipe none of whose steps needs them
            has none made for it.
        packages: importable packages besides those that sousvit always has.
        extra: of sousvit, which installs them: ``pip install "sousvit[extra]"``.
        conflicts: techniques that cannot stand in the same recipe.
    """

    plain_vit: bool = True
    linear: bool = False
    equal_blocks: bool = False
    images: bool = True
    packages: tuple[str, ...] = ()
    extra: str = ""
    conflicts: frozenset[str] = frozenset()

    def misfit(self, shape: ModelShape) -> str | None:
        """Why a model of this shape does not do (one phrase), or None."""
        if isinstance(shape, OtherShape):
            if self.plain_vit:
                return f"{shape.name} is no plain Vision Transformer"
            if self.linear and shape.num_linear == 0:
                return "no linear layers besides the classifier"
        return None

    def missing(self) -> str | None:
        """Which packages are not installed (one phrase), or None."""
        absent = self._absent()
        return f"{', '.join(absent)} not installed" if absent else None

    def require_packages(self, needed_for: str) -> None:
        """Every package installed.

        Raises:
            MissingPackageError: one is not; the message says what needs it and how to install it.
        """
        for package in self._absent():
            raise MissingPackageError(package, needed_for, self.extra)

    def _absent(self) -> list[str]:
        return [package for package in self.packages if importlib.util.find_spec(package) is None]
