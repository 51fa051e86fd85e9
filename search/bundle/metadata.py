"""Facts in the model file itself, for tools that show them: ONNX's ``metadata_props``, OpenVINO's ``rt_info``.

An ONNX graph's input is called ``pixel_values`` besides, as Hugging Face's libraries expect.

They cost the file a few kilobytes, and no time. LiteRT's metadata would mean to write the flatbuffer anew, without the
alignment of its weights, and PyTorch's programs have nowhere to put them: theirs stand in the bundle's other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from xml.etree import ElementTree

from sousvit.spaces.export.artifact import Artifact

#: Of an ONNX graph's input.
INPUT = "pixel_values"


def with_metadata(artifact: Artifact, facts: Mapping[str, str]) -> Artifact:
    """The artifact, whose file says ``facts`` where its form can."""
    if artifact.path.suffix == ".onnx":
        _in_onnx(artifact, facts)
    elif artifact.path.suffix == ".xml":
        _in_openvino(artifact, facts)
    return artifact


def _in_onnx(artifact: Artifact, facts: Mapping[str, str]) -> None:
    import onnx

    model = onnx.load(artifact.path)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **facts})
    given = model.graph.input[0]
    for node in model.graph.node:
        node.input[:] = [INPUT if taken == given.name else taken for taken in node.input]
    given.name = INPUT
    onnx.save(model, artifact.path)


def _in_openvino(artifact: Artifact, facts: Mapping[str, str]) -> None:
    """Under ``sousvit``, and the labels where OpenVINO's own tools look for them (``model_info``)."""
    tree = ElementTree.parse(artifact.path)
    root = tree.getroot()
    info = root.find("rt_info")
    info = ElementTree.SubElement(root, "rt_info") if info is None else info
    own = ElementTree.SubElement(info, "sousvit")
    for name, value in facts.items():
        ElementTree.SubElement(own, name, value=value)
    labels = " ".join(label.replace(" ", "_") for label in json.loads(facts["labels"]))
    model_info = ElementTree.SubElement(info, "model_info")
    ElementTree.SubElement(model_info, "labels", value=labels)
    tree.write(artifact.path, encoding="utf-8", xml_declaration=True)
