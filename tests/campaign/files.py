"""Small valid files of every form (data, weights, recorded tables), damaged: each opens, or is one clear line."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sousvit.data.formats.idx import write_idx
from sousvit.models.load import save_checkpoint
from tests.campaign.outcome import Outcome, fault_of_line
from tests.hostile import OPENED, outcomes
from tests.sousvit.data.data_forms import (
    LABELS,
    PIXELS,
    WORDS,
    encoded,
    write_csv,
    write_folder,
    write_saved,
    write_table,
    write_tar,
)
from tests.watched import EndedError

NAME = "vit_tiny_patch16_224"
ARGS = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}


def module():
    torch.manual_seed(0)
    return timm.create_model(NAME, **ARGS)


def write_idx_pair(root):
    write_idx(root / "train-images.idx.gz", PIXELS)
    write_idx(root / "train-labels.idx.gz", np.array(LABELS, np.uint8))
    return root / "train-images.idx.gz"


def write_plain_idx(root):
    path = write_idx_pair(root)
    for file in (path, path.with_name("train-labels.idx.gz")):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    return root / "train-images.idx"


def write_voc(root):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>6</xmax><ymax>7</ymax></bndbox>"
    size = "<size><width>8</width><height>8</height></size>"
    for number, pixels in enumerate(PIXELS):
        (root / "JPEGImages" / f"{number}.png").write_bytes(encoded(pixels))
        text = f"<annotation>{size}<object><name>{WORDS[number]}</name>{box}</object></annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{number}\n" for number in range(6)))
    return root / "ImageSets/Main/train.txt"


def write_coco(root):
    images = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 8} for n in range(6)]
    boxes = [{"id": n, "image_id": n, "category_id": LABELS[n] + 1, "bbox": [1, 2, 3.5, 4]} for n in range(6)]
    kinds = [{"id": n + 1, "name": name} for n, name in enumerate(("ant", "bee", "cat"))]
    for number, pixels in enumerate(PIXELS):
        (root / f"{number}.png").write_bytes(encoded(pixels))
    (root / "in.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    return root / "in.json"


def write_images(kind, **options):
    def write(root):
        for number, pixels in enumerate(PIXELS[:2]):
            folder = root / "in" / WORDS[number]
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / f"a.{kind}", **options)
        return root / "in"

    return write


def write_described(root):
    save_checkpoint(root / "in.safetensors", module(), {"name": NAME, "args": ARGS, "class_names": ["a", "b", "c"]})
    return root / "in.safetensors"


def write_sidecar(root):
    save_file(module().state_dict(), root / "in.safetensors")
    (root / "in.json").write_text(json.dumps({"name": NAME, "args": ARGS, "mean": [0.5, 0.5, 0.5], "epochs": 3}))
    return root / "in.safetensors"


def write_torch(**options):
    def write(root):
        stored = {"model": module().state_dict(), "args": {"model": NAME, "img_size": 16, "num_classes": 3}, "epoch": 3}
        torch.save(stored, root / "in.pth", **options)
        return root / "in.pth"

    return write


def write_timm(root):
    from timm.models import save_for_hf

    save_for_hf(module(), root / "in", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    return root / "in"


def write_shards(root):
    write_timm(root)
    (root / "in" / "model.safetensors").unlink()
    weights = module().state_dict()
    parts = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for part in set(parts.values()):
        save_file({name: value for name, value in weights.items() if parts[name] == part}, root / "in" / part)
    (root / "in" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    return root / "in"


def write_hugging_face(root):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=16, patch_size=8, num_labels=3, **size)
    ViTForImageClassification(config).save_pretrained(root / "in")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "in")
    return root / "in"


def write_recorded(kind):
    def write(root):
        frame = pd.DataFrame({"a": range(20), "w": list("xyzw") * 5, "b": np.linspace(0, 1, 20), "s": [0.5] * 20})
        file = root / f"t.{kind}"
        file.write_bytes(b"")
        frame.to_parquet(file) if kind == "parquet" else frame.to_csv(file, index=False)
        described = {"file": file.name, "parameters": ["a", "w"], "objectives": {"b": "minimize"}, "seconds": "s"}
        (root / "t.yaml").write_text(json.dumps(described))
        return root / "t.yaml"

    return write


def write_hf_bytes(root):
    table = write_table(root, [encoded(one) for one in PIXELS])
    pq.write_table(pq.read_table(table), table, compression="zstd")
    return table


FORMS = {
    "folder of PNG": ("data", write_folder),
    **{f"folder of {kind}": ("data", write_images(kind)) for kind in ("jpg", "webp", "bmp", "gif", "tif", "ppm")},
    "CSV": ("data", write_csv),
    "parquet of bytes": ("data", write_hf_bytes),
    "parquet of pixels": ("data", lambda root: write_table(root, PIXELS.tolist(), LABELS)),
    "save_to_disk": ("data", write_saved),
    "WebDataset": ("data", write_tar),
    "IDX in gzip": ("data", write_idx_pair),
    "IDX": ("data", write_plain_idx),
    "VOC": ("data voc", write_voc),
    "COCO": ("data coco", write_coco),
    "safetensors that describe themselves": ("checkpoint", write_described),
    "safetensors and a sidecar": ("checkpoint", write_sidecar),
    "PyTorch": ("checkpoint", write_torch()),
    "PyTorch before 1.6": ("checkpoint", write_torch(_use_new_zipfile_serialization=False)),
    "timm": ("checkpoint", write_timm),
    "shards": ("checkpoint", write_shards),
    "Hugging Face": ("checkpoint", write_hugging_face),
    "recorded CSV": ("table", write_recorded("csv")),
    "recorded parquet": ("table", write_recorded("parquet")),
}

#: What is attacked, by who opens it.
WAYS = {"data": "data set, images", "checkpoint": "weights", "table": "recorded table"}


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """A file of each form in turns; the whole ones are opened before."""
    with tempfile.TemporaryDirectory() as folder:
        forms = _written(Path(folder))
        whole = [{key: value for key, value in task.items() if key != "root"} for task in forms]
        tasks = whole + [{**forms[number % len(forms)], "seed": f"{seed} {number}"} for number in numbers]
        done = 0
        while done < len(tasks):
            try:
                for outcome in outcomes(tasks[done:]):
                    task, done = tasks[done], done + 1
                    if "root" in task:
                        yield Outcome(WAYS[task["opener"]], outcome.fault or fault_of_line(outcome.said))
                    else:
                        assert outcome.kind == OPENED, f"{task['name']} does not open as it was written: {outcome.said}"
            except EndedError as error:
                yield Outcome(WAYS[tasks[done]["opener"]], str(error))
                done += 1


def _written(folder: Path) -> list[dict]:
    """Whole files of every form, as tasks of :mod:`tests.hostile`."""
    tasks = []
    for number, (name, (way, write)) in enumerate(FORMS.items()):
        opener, _, form = way.partition(" ")
        root = folder / str(number)
        root.mkdir()
        options = {"format": form} if form else {}
        tasks.append({"name": name, "opener": opener, "place": str(write(root)), "options": options, "root": str(root)})
    return tasks
