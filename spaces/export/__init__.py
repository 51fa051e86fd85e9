"""Export of a PyTorch model to the file that a runtime opens. The contract is exporter.py; one file a runtime.

A new runtime is an exporter here, a session in objectives/runtimes, and a line in each of the two tables.
"""

from __future__ import annotations

#: Name of the runtime -> its exporter's class, imported at first look-up.
BUILTIN = {
    "litert": "sousvit.spaces.export.litert:LiteRtExporter",
    "onnxruntime": "sousvit.spaces.export.onnx:OnnxExporter",
    "openvino": "sousvit.spaces.export.openvino:OpenVinoExporter",
    "torch": "sousvit.spaces.export.torch:TorchExporter",
}
