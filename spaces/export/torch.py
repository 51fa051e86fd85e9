"""PyTorch's own exported programs (``.pt2``)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.errors import TrialError, one_line
from sousvit.spaces.export.exporter import Exporter, Shape
from sousvit.spaces.export.onnx import quiet

if TYPE_CHECKING:
    from torch import nn

FILE = "model.pt2"


class TorchExporter(Exporter):
    """The program with a free batch size; no deployment technique changes one."""

    def graph(self, model: nn.Module, input_shape: Shape, folder: Path) -> Path:
        import torch

        batch = torch.export.Dim("batch", min=1, max=65535)
        try:
            with quiet(), torch.no_grad():
                example = (torch.zeros(2, *input_shape[1:]),)
                program = torch.export.export(model.eval(), example, dynamic_shapes=({0: batch},))
                content = BytesIO()  # its own writer of files ends the process where the disk is full
                torch.export.save(program, content)
        except Exception as error:  # torch.export raises many kinds
            raise TrialError(f"torch.export failed: {one_line(error)}") from error
        (folder / FILE).write_bytes(content.getbuffer())
        return folder / FILE
