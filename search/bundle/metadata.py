"""Facts in the model file itself, for tools that show them. They cost it a few kilobytes, and no time.

* ONNX: ``metadata_props``. The graph's input is called ``pixel_values`` besides, as Hugging Face's libraries expect.
* OpenVINO: ``rt_info``.
* LiteRT: a zip archive behind the flatbuffer, which is how its files carry labels; the weights stay where they are.
* PyTorch: an extra file of the program, ``torch.export.load(file, extra_files={"sousvit.json": ""})``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from xml.etree import ElementTree

from sousvit.spaces.export.artifact import Artifact

#: Of an ONNX graph's input.
INPUT = "pixel_values"
#: A file inside a LiteRT or PyTorch file.
FACTS, LABELS = "sousvit.json", "labels.txt"


def with_metadata(artifact: Artifact, facts: Mapping[str, str]) -> Artifact:
    """The artifact, whose file says ``facts`` where its form can."""
    write = {".onnx": _in_onnx, ".xml": _in_openvino, ".tflite": _in_litert, ".pt2": _in_torch}
    if artifact.path.suffix in write:
        write[artifact.path.suffix](artifact, facts)
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


def _in_litert(artifact: Artifact, facts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(artifact.path, "a") as file:
        file.writestr(FACTS, json.dumps(facts))
        file.writestr(LABELS, "".join(f"{label}\n" for label in json.loads(facts["labels"])))


def _in_torch(artifact: Artifact, facts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(artifact.path, "a") as file:
        top = file.namelist()[0].partition("/")[0]
        file.writestr(f"{top}/extra/{FACTS}", json.dumps(facts))
