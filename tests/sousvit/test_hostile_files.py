"""Files that hang, fill the memory or contradict themselves: one clear line each, soon, and in little memory."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from sousvit.data.formats.folder import FolderSource
from tests.hostile import OPENED, Outcome, outcomes

IDX = struct.Struct(">HBB")


def idx(*shape, kind=8):
    return IDX.pack(0, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape)


def png(width=8, height=8, mode="L"):
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def png_of_nothing(width, height):
    """A grey PNG of any size in some kilobytes, which is valid as far as anybody reads it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def zeros(path, size, before=b""):
    """A file of ``size`` zeros that takes no place on the disk."""
    with path.open("wb") as stream:
        stream.write(before)
        stream.truncate(size)
    return path


def packed(path, before, unit, count):
    """Text and ``count`` times a unit, in members of gzip as a log that is added to has them."""
    path.write_bytes(gzip.compress(before) + gzip.compress(unit, 1) * count)
    return path


def images_idx(root, content, labels=None, packed=True):
    name = "train-images.idx.gz" if packed else "train-images.idx"
    (root / name).write_bytes(gzip.compress(content) if packed else content)
    (root / name.replace("images", "labels")).write_bytes(idx(2) + b"\0\1" if labels is None else labels)
    return root / name


def idx_that_inflates(root):
    path = images_idx(root, b"")
    return packed(path, idx(2, 8, 8), bytes(1 << 20), 5000)


def two_gigabytes_of_idx(root):
    images_idx(root, b"", packed=False)
    return zeros(root / "train-images.idx", 3 << 30, idx(2, 32768, 32768))


def pipe_of_labels(root):
    path = images_idx(root, idx(2, 8, 8) + bytes(128))
    (root / "train-labels.idx.gz").unlink()
    pipe(root, "train-labels.idx.gz")
    return path


def pipe_among_images(root):
    pipe(root, "b.png")
    return csv(root, "image,label\na.png,x\nb.png,y\n")


def sparse_image_in_folder(root):
    (root / "in" / "x").mkdir(parents=True)
    zeros(root / "in" / "x" / "a.png", 50 << 30)
    return root / "in"


def sparse_sidecar(root):
    zeros(root / "in.json", 50 << 30)
    return safetensors(root)


def sparse_annotation(root):
    path = voc(root, b"")
    zeros(root / "Annotations" / "a.xml", 50 << 30)
    return path


def parquet(root, images, labels, **options):
    pq.write_table(pa.table({"image": images, "label": labels}), root / "in.parquet", **options)
    return root / "in.parquet"


def repeated_image(root):
    """200,000 times one megabyte, which is stored once."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), [bytes(1 << 20)])
    return parquet(root, column, np.zeros(200_000, np.int64), store_schema=False)


def squeezed_images(root):
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    with pq.ParquetWriter(root / "in.parquet", schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(100):
            writer.write_table(pa.table({"image": [bytes(8 << 20)], "label": [0]}))
    return root / "in.parquet"


def squeezed_arrow(root):
    table = pa.table({"image": [bytes(1 << 20)] * 64, "label": [0] * 64})
    with pa.ipc.new_stream(root / "in.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
    return root / "in.arrow"


def tar_header(name, size, kind=b"0"):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = abs(size)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        header[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header[:512])


def voc(root, annotation):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages" / "a.png").write_bytes(png())
    if annotation is None:
        os.mkfifo(root / "Annotations" / "a.xml")
    else:
        (root / "Annotations" / "a.xml").write_bytes(annotation)
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    return root / "ImageSets/Main/train.txt"


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
ENTITIES = f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation><object><name>&l9;</name></object></annotation>'


def coco(root, **image):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8, **image}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 1, "name": "x"}],
    }
    (root / "a.png").write_bytes(png())
    (root / "in.json").write_text(json.dumps(content))
    return root / "in.json"


def safetensors(root, **metadata):
    (root / "in.safetensors").write_bytes(save({"a": torch.zeros(2)}, metadata or None))
    return root / "in.safetensors"


def with_sidecar(root, text):
    (root / "in.json").write_text(text)
    return safetensors(root)


def written(root, name, content):
    (root / name).write_bytes(content)
    return root / name


def saved(root, content, **options):
    torch.save(content, root / "in.pth", **options)
    return root / "in.pth"


def holding_itself():
    content = {}
    content["model"] = content
    return content


def holding_each_other():
    content = [torch.zeros(1)]
    for _ in range(40):
        content = [content] * 10
    return {"model": {"a": torch.zeros(1)}, "args": content}


def zipped(root):
    with (
        zipfile.ZipFile(root / "in.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as out,
    ):
        for _ in range(300):
            out.write(bytes(1 << 20))
    return root / "in.pth"


def pipe(root, name):
    os.mkfifo(root / name)
    return root / name


@contextmanager
def inside(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def bound_socket(root, name):
    # The path of a socket is short.
    with inside(root), socket.socket(socket.AF_UNIX) as made:
        made.bind(name)
    return root / name


def linked(root, name, target):
    (root / name).symlink_to(target)
    return root / name


def table(root, file, **changes):
    described = {"file": file.name, "parameters": ["a"], "objectives": {"b": "minimize"}, **changes}
    (root / "t.yaml").write_text(json.dumps(described))
    return root / "t.yaml"


def many_rows(root):
    with (root / "t.csv").open("wb") as stream:
        stream.write(b"a,b\n")
        for _ in range(30):
            stream.write(b"1,1\n" * 1_000_000)
    return table(root, root / "t.csv")


def many_rows_of_parquet(root):
    pq.write_table(
        pa.table({"a": np.zeros(30_000_000, np.int8), "b": np.zeros(30_000_000, np.int8)}), root / "t.parquet"
    )
    return table(root, root / "t.parquet")


def csv(root, text):
    (root / "a.png").write_bytes(png())
    (root / "in.csv").write_text(text)
    return root / "in.csv"


PIPE, DEVICE = "a named pipe; name a regular file", "a device; name a regular file"
LABELS = "labels must be whole numbers from 0, below 1,048,576"
#: Per case what it is opened as (with a format), what makes it, and the words that tell what is wrong.
CASES = {
    # What has no end, or never begins.
    **{
        f"a pipe as {form}": (f"data {form}", lambda root: pipe(root, "in"), PIPE)
        for form in ("csv", "parquet", "datasets", "webdataset", "folder", "voc", "coco")
    },
    "a pipe as idx": ("data idx", lambda root: pipe(root, "images.idx"), PIPE),
    "a pipe of labels": (
        "data idx",
        pipe_of_labels,
        "no file",
    ),
    "a pipe by its name": ("data", lambda root: pipe(root, "in.parquet"), PIPE),
    "a socket": ("data csv", lambda root: bound_socket(root, "in.csv"), "a socket; name a regular file"),
    "zeros without end": ("data csv", lambda root: linked(root, "in.csv", "/dev/zero"), DEVICE),
    "a loop of links": ("data csv", lambda root: linked(root, "in.csv", "in.csv"), "symbolic links"),
    "a pipe of an annotation": ("data voc", lambda root: voc(root, None), "a named pipe"),
    "a pipe among images": (
        "data csv",
        pipe_among_images,
        "1 of 2 are not",
    ),
    "an image without end": ("image", lambda root: linked(root, "a.png", "/dev/zero"), "a device"),
    **{
        f"a pipe as {name}": ("checkpoint", lambda root, name=name: pipe(root, name), PIPE)
        for name in ("model.pth", "model.safetensors", "model", "config.json")
    },
    "zeros without end as weights": ("checkpoint", lambda root: linked(root, "model", "/dev/zero"), DEVICE),
    "a socket as weights": ("checkpoint", lambda root: bound_socket(root, "model"), "a socket"),
    "a pipe of weights in a folder": ("checkpoint", lambda root: pipe(root, "model.safetensors").parent, PIPE),
    "a table from a pipe": ("table", lambda root: table(root, pipe(root, "t.csv")), PIPE),
    "a table without end": ("table", lambda root: table(root, linked(root, "t.parquet", "/dev/zero")), DEVICE),
    # What inflates.
    "IDX announces everything": (
        "data idx",
        lambda root: images_idx(root, idx(2**32 - 1, 60000, 60000)),
        "must be whole",
    ),
    "IDX of two gigabytes": (
        "data idx",
        two_gigabytes_of_idx,
        "an IDX array holds at most 1 GiB; received 2 GiB",
    ),
    "IDX announces more than deflate makes": (
        "data idx",
        lambda root: images_idx(root, idx(2, 20000, 20000)),
        "must be whole",
    ),
    "plain IDX announces more": (
        "data idx",
        lambda root: images_idx(root, idx(2, 999, 999), packed=False),
        "must be whole",
    ),
    "IDX inflates beyond what it announces": (
        "data idx",
        idx_that_inflates,
        OPENED,
    ),
    "labels of IDX announce everything": (
        "data idx",
        lambda root: images_idx(root, idx(2, 8, 8) + bytes(128), idx(2**31)),
        "must be whole",
    ),
    "parquet repeats one megabyte": ("data parquet", repeated_image, "at most 32 times its size in memory"),
    "parquet squeezes zeros": ("data parquet", squeezed_images, "at most 32 times its size in memory"),
    "Arrow squeezes zeros": ("data datasets", squeezed_arrow, "Arrow files are not compressed"),
    "a tar announces a huge name": (
        "data webdataset",
        lambda root: zeros(root / "in.tar", 20 << 30, tar_header("x", 8 << 30, tarfile.GNUTYPE_LONGNAME)),
        "a header of 8589934592 bytes",
    ),
    "a tar announces a huge label": (
        "data webdataset",
        lambda root: zeros(root / "in.tar", 20 << 30, tar_header("a.png", 0) + tar_header("a.cls", 7 << 30)),
        "a label holds at most 1 MiB",
    ),
    "a tar goes backwards": (
        "data webdataset",
        lambda root: written(
            root, "in.tar", tar_header("a.png", 512) + bytes(512) + tar_header("a.cls", -1024) + bytes(2048)
        ),
        "is cut short, or lies in another file|uncompressed tar",
    ),
    "an image announces 60000 x 60000": (
        "image",
        lambda root: written(root, "a.png", png_of_nothing(60000, 60000)),
        "60000 x 60000 pixels|exceeds limit",
    ),
    "an image announces 20000 x 20000": (
        "image",
        lambda root: written(root, "a.png", png_of_nothing(20000, 20000)),
        "20000 x 20000 pixels|exceeds limit",
    ),
    "200 megapixels": ("image", lambda root: written(root, "a.png", png(14143, 14143)), OPENED),
    "a sliver": ("image", lambda root: written(root, "a.png", png(1, 200_000)), "a sliver"),
    "an image of many gigabytes": (
        "image",
        lambda root: zeros(root / "a.png", 50 << 30),
        "an image holds at most 1 GiB",
    ),
    "a gigabyte that is no image": ("image", lambda root: zeros(root / "a.png", 1 << 30), "no known image format"),
    "an image in a folder of many gigabytes": (
        "data folder",
        sparse_image_in_folder,
        "one file of the data holds at most 1 GiB",
    ),
    "a program in the place of an image": (
        "image",
        lambda root: written(root, "a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "no known image format",
    ),
    "a table of 30 million rows": ("table", many_rows, "a table has at most 1,000,000 rows"),
    "a table of 30 million rows of parquet": ("table", many_rows_of_parquet, "30,000,000 or more in"),
    "a table of one row that inflates": (
        "table",
        lambda root: table(root, packed(root / "t.csv.gz", b"a,b\n", bytes(1 << 20), 1500)),
        "a row of a CSV has at most 1 MiB",
    ),
    "a table of lines that inflate": (
        "table",
        lambda root: table(root, packed(root / "t.csv.gz", b"a,b\n", b"1,1\n" * (1 << 18), 500)),
        "at most 1,000,000 rows",
    ),
    "a table of columns": (
        "table",
        lambda root: table(
            root,
            written(root, "t.csv", b",".join(b"%d" % n for n in range(9999)) + b"\n" + (b"," * 9998 + b"\n") * 9999),
        ),
        "50,000,000 cells",
    ),
    # Descriptions.
    "a header of 2^60 bytes": (
        "checkpoint",
        lambda root: written(root, "in.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "a header of 1,152,921,504,606,846,976 bytes",
    ),
    "a header of a gigabyte": (
        "checkpoint",
        lambda root: zeros(root / "in.safetensors", 2 << 30, struct.pack("<Q", 1 << 30)),
        "a safetensors header holds at most 16 MiB",
    ),
    "metadata ten million levels deep": (
        "checkpoint",
        lambda root: safetensors(root, sousvit="[" * 10**7),
        "must be JSON|16 MiB",
    ),
    "a sidecar ten million levels deep": ("checkpoint", lambda root: with_sidecar(root, "[" * 10**7), "must be JSON"),
    "a sidecar of many gigabytes": (
        "checkpoint",
        sparse_sidecar,
        "holds at most 64 MiB",
    ),
    "a state ten million levels deep": (
        "data datasets",
        lambda root: written(root, "state.json", b"[" * 10**7).parent,
        "RecursionError",
    ),
    "COCO ten million levels deep": ("data coco", lambda root: written(root, "in.json", b"[" * 10**7), "a JSON file"),
    "COCO of many gigabytes": ("data coco", lambda root: zeros(root / "in.json", 50 << 30), "holds at most 1 GiB"),
    "COCO with a size without end": ("data coco", lambda root: coco(root, width=10**400, height=10**400), OPENED),
    "entities of entities": ("data voc", lambda root: voc(root, ENTITIES.encode()), "it declares the entity l0"),
    "entities in another encoding": ("data voc", lambda root: voc(root, ENTITIES.encode("utf-16")), "the entity l0"),
    "an annotation of many gigabytes": (
        "data voc",
        sparse_annotation,
        "holds at most 8 MiB",
    ),
    "an annotation of endless size": (
        "data voc",
        lambda root: voc(root, b"<a><size><width>1e999</width><height>1</height></size></a>"),
        "finite ones",
    ),
    # Weights.
    "a packed PyTorch file": ("checkpoint", zipped, "which is compressed"),
    "weights that hold themselves": (
        "checkpoint",
        lambda root: saved(root, holding_itself()),
        "a bounded number of values",
    ),
    "values that hold each other": (
        "checkpoint",
        lambda root: saved(root, holding_each_other()),
        "a bounded number of values",
    ),
    "a tensor that repeats one number": (
        "checkpoint",
        lambda root: saved(root, {"a": torch.zeros(1).expand(2**36)}),
        "stores every value",
    ),
    "an old file that repeats one number": (
        "checkpoint",
        lambda root: saved(root, {"a": torch.zeros(1).expand(2**36)}, _use_new_zipfile_serialization=False),
        "stores every value",
    ),
    # Labels and shapes.
    "IDX of no image": ("data idx", lambda root: images_idx(root, idx(0, 8, 8)), "must hold images"),
    "IDX of images without pixels": ("data idx", lambda root: images_idx(root, idx(2, 0, 8)), "an image has pixels"),
    "IDX of floats": ("data idx", lambda root: images_idx(root, idx(2, 8, 8, kind=0x0D)), "unsigned bytes"),
    "fewer labels": ("data idx", lambda root: images_idx(root, idx(3, 8, 8) + bytes(192)), "equally many"),
    **{
        f"labels {name}": ("data parquet", lambda root, labels=labels: parquet(root, [png()] * 2, labels), words)
        for name, labels, words in (
            ("beyond int64", pa.array([0, 2**63], pa.uint64()), LABELS),
            ("beyond any number of classes", [0, 2**40], LABELS),
            ("negative", [0, -1], LABELS),
            ("of floats", [0.5, 1.0], LABELS),
            ("of NaN", [float("nan"), 1.0], LABELS),
            ("missing", [0, None], "every image has a label; received none in row 1"),
            ("of times", pa.array([0, 1], pa.duration("s")), LABELS),
            ("of lists", [[0], [1]], "an image has one label"),
            ("of long texts", ["x" * 5000, "y"], "at most 1000 letters"),
        )
    },
    "one long text many times": (
        "data parquet",
        lambda root: parquet(
            root,
            [png()] * 200_000,
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), ["x" * (1 << 20)]),
        ),
        "at most 32 times",
    ),
    "a label of 5000 digits": ("data csv", lambda root: csv(root, f"image,label\na.png,{'9' * 5000}\n"), LABELS),
    "a label beyond int64 in a CSV": ("data csv", lambda root: csv(root, f"image,label\na.png,{2**64}\n"), LABELS),
    "a long text in a CSV": ("data csv", lambda root: csv(root, f"image,label\na.png,{'x' * 10**7}\n"), "field larger"),
    "a path with a NUL": ("data csv", lambda root: csv(root, "image,label\na\0.png,x\n"), "must be there"),
    "braces without end": ("data", lambda root: root / "t-{0..999999999}*.tar", "at most 100,000 paths"),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> dict[str, Outcome]:
    """What opening every case gave, in one process."""
    tasks = []
    for number, (name, (way, make, _)) in enumerate(CASES.items()):
        opener, _, form = way.partition(" ")
        root = tmp_path_factory.mktemp(f"case{number}")
        options = {"format": form} if form else {}
        tasks.append({"name": name, "opener": opener, "place": str(make(root)), "options": options})
    return {outcome.name: outcome for outcome in outcomes(tasks)}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_one_clear_line_at_little_cost(name, opened):
    outcome, words = opened[name], CASES[name][2]
    assert not outcome.fault
    assert outcome.kind == OPENED or outcome.grown_mb < 300, "it was refused too late"
    assert (outcome.kind == OPENED) == (words == OPENED), outcome
    assert words == OPENED or re.search(words, outcome.said), outcome.said


def test_what_has_no_end_is_left_out_of_a_folder_and_counted(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    pipe(tmp_path / "ant", "b.png")
    bound_socket(tmp_path / "ant", "c.png")
    linked(tmp_path / "bee", "d.png", "/dev/zero")
    linked(tmp_path / "bee", "e.png", "e.png")
    linked(tmp_path, "loop", "loop")
    source = FolderSource(tmp_path)
    assert source.class_names == ["ant", "bee"] and len(source.files) == 2
    assert f"3 pipes, sockets and devices (ant/b.png, ant/c.png, bee/d.png) left out in {tmp_path}" in source.notes
    assert f"2 links that lead nowhere (bee/e.png, loop) left out in {tmp_path}" in source.notes


def test_folders_may_be_nested_deeper_than_the_stack(tmp_path):
    folder = tmp_path.joinpath(*["d"] * 300)
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        assert len(FolderSource(tmp_path).files) == 1
    finally:
        sys.setrecursionlimit(before)
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # pytest's own clean-up would go as deep


@pytest.mark.parametrize("command", ["check", "import"])
def test_a_pipe_on_the_command_line_is_exit_code_2(command, tmp_path, tiny_project, run_sousvit):
    if command == "check":
        data = {**tiny_project.data, "train": str(pipe(tmp_path, "images.idx"))}
        given = [tiny_project.write_budget(tmp_path / "budget.yaml", data=data)]
    else:
        given = [pipe(tmp_path, "model.pth"), "--out", tmp_path / "a.safetensors"]
    run = run_sousvit(command, *given, cwd=tmp_path)
    assert run.returncode == 2 and "a named pipe; name a regular file" in " ".join(run.stderr.split()), run.stderr
