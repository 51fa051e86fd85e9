"""Size: the artifact's files on disk and compressed, parameters, and multiply-accumulates."""

from __future__ import annotations

import zlib
from typing import ClassVar

from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject

#: zlib's default level.
LEVEL = 6


class Size(Objective):
    """Bytes of the artifact's files in megabytes of 10^6 bytes."""

    name: ClassVar[str] = "size"
    unit: ClassVar[str] = "MB"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "size of the artifact's files"

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(subject.artifact.size_bytes / 1e6)


class CompressedSize(Objective):
    """Bytes of the artifact's files after zlib (as gzip and most package formats compress), in megabytes.

    It depends on the weights, zeros above all, so it is only known after training.
    """

    name: ClassVar[str] = "size_compressed"
    unit: ClassVar[str] = "MB"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "size of the artifact's files as a compressed download"

    def measure(self, subject: Subject) -> Measurement:
        total = sum(len(zlib.compress(file.read_bytes(), LEVEL)) for file in subject.artifact.shipped_files)
        return Measurement(total / 1e6)


class Params(Objective):
    """Parameters in millions; branches that are folded before export count as what they become."""

    name: ClassVar[str] = "params"
    unit: ClassVar[str] = "M"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    summary: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> Measurement:
        from sousvit.spaces.layers.merging import merged

        return Measurement(sum(parameter.numel() for parameter in merged(subject.model).parameters()) / 1e6)


class Macs(Objective):
    """Multiply-accumulates of one image in millions: matrix products and convolutions."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "M"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    summary: ClassVar[str] = "multiply-accumulates of one image"

    def measure(self, subject: Subject) -> Measurement:
        from sousvit.spaces.layers.merging import merged
        from sousvit.spaces.module_shape import macs_of

        return Measurement(macs_of(merged(subject.model), subject.input_shape[1:]) / 1e6)
