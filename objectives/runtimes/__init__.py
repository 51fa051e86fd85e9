"""Runtimes, which run artifacts. The contract is runtime.py; a new runtime is a file and a line in this table."""

from __future__ import annotations

#: Name in targets and recipes -> its class, imported at first look-up.
BUILTIN = {
    "litert": "sousvit.objectives.runtimes.litert_:LiteRt",
    "litert-web": "sousvit.objectives.runtimes.browser:LiteRtWeb",
    "onnxruntime": "sousvit.objectives.runtimes.onnxruntime_:OnnxRuntime",
    "onnxruntime-web": "sousvit.objectives.runtimes.browser:OnnxRuntimeWeb",
    "onnxruntime-webgpu": "sousvit.objectives.runtimes.browser:OnnxRuntimeWebGpu",
    "openvino": "sousvit.objectives.runtimes.openvino_:OpenVino",
    "torch": "sousvit.objectives.runtimes.torch_:Torch",
}
