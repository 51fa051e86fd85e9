from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sousvit.data import DataSpec, Splits
from sousvit.data.augment import MOVES_BOXES, View
from sousvit.data.detection import DetectionSet, Objects, reboxed
from sousvit.data.formats.coco import CocoSource
from sousvit.data.formats.voc import VocSource
from sousvit.errors import SharedInputError, UnknownNameError, UserError

SIZE = (40, 80)  # height, width


def annotation(objects, size=SIZE):
    found = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for name, a, b, c, d in objects
    )
    head = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation>{head}{found}</annotation>"


def picture(name):
    """An image of its own for each name."""
    return Image.new("RGB", (SIZE[1], SIZE[0]), tuple(hashlib.sha256(name.encode()).digest()[:3]))


def write_voc(root, images, part="train"):
    """``images``: name to objects in VOC's own pixels, or to the annotation's text."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in images.items():
        picture(name).save(root / "JPEGImages" / f"{name}.jpg")
        text = objects if isinstance(objects, str) else annotation(objects)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    path = root / "ImageSets" / "Main" / f"{part}.txt"
    path.write_text("\n".join(images) + "\n")
    return path


def write_coco(root, images, annotations, categories=((7, "b"), (3, "a"))):
    root.mkdir(parents=True, exist_ok=True)
    for entry in images:
        picture(str(root / entry["file_name"])).save(root / entry["file_name"])
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    path = root / "train.json"
    path.write_text(json.dumps(content))
    return path


def coco_image(number, name=None):
    return {"id": number, "file_name": name or f"{number}.png", "width": SIZE[1], "height": SIZE[0]}


def coco_box(image, box, category=3, **more):
    return {"id": 1, "image_id": image, "category_id": category, "bbox": box, **more}


def refused(call, *args, kind=UserError):
    with pytest.raises(kind) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_voc_counts_pixels_from_one(tmp_path):
    source = VocSource(write_voc(tmp_path, {"one": [("cell", 1, 1, 80, 40), ("blob", 11, 6, 30, 20)], "two": []}))
    assert source.class_names == ["blob", "cell"]
    assert source.objects[0].boxes.tolist() == [[0, 0, 80, 40], [10, 5, 30, 20]]
    assert source.objects[0].labels.tolist() == [1, 0]
    assert len(source.objects[1]) == 0, "an image without objects is a negative"
    assert source.notes == []


def test_a_voc_folder_is_all_its_annotations(tmp_path):
    write_voc(tmp_path, {"b": [("cell", 1, 1, 9, 9)], "a": []})
    assert [file.stem for file in VocSource(tmp_path).files] == ["a", "b"]


def test_broken_boxes_are_clipped_dropped_and_counted(tmp_path):
    boxes = [
        ("cell", -20, 5, 30, 90),  # partly outside
        ("cell", 200, 5, 260, 30),  # wholly outside
        ("cell", 30, 20, 10, 5),  # corners exchanged
        ("cell", 5, 5, 20, 20),
        ("cell", 5, 5, 20, 20),  # again
        ("blob", 5, 5, 20, 20),  # another class: another object
    ]
    source = VocSource(write_voc(tmp_path, {"one": boxes}))
    assert source.objects[0].boxes.tolist() == [[0, 4, 30, 40], [4, 4, 20, 20], [4, 4, 20, 20]]
    assert [note.split(" in ")[0] for note in source.notes] == [
        "1 boxes clipped to their image",
        "1 boxes dropped: given twice",
        "2 boxes dropped: outside of their image, or smaller than a pixel",
    ]


def test_a_missing_size_is_read_from_the_image(tmp_path):
    text = annotation([("cell", 1, 1, 300, 300)], size=None)
    assert VocSource(write_voc(tmp_path, {"one": text})).objects[0].boxes.tolist() == [[0, 0, 80, 40]]


def test_images_listed_twice_count_once(tmp_path):
    path = write_voc(tmp_path, {"one": [("cell", 1, 1, 9, 9)]})
    path.write_text("one\none\n\n")
    source = VocSource(path)
    assert len(source.files) == 1 and source.notes[0].startswith("1 images listed twice")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an annotation is an XML file"),
        ("<annotation><object>", "an annotation is an XML file"),
        (annotation([("cell", 1, 1, 9, 9)]).replace("<xmax>9</xmax>", ""), "boxes are given in numbers"),
        (annotation([("cell", 1, 1, 9, 9)]).replace("<xmax>9", "<xmax>wide"), "'wide'"),
        (annotation([("cell", 1, 1, 9, 9)]).replace("<xmax>9", "<xmax>nan"), "finite"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, text, words):
    path = write_voc(tmp_path, {"good": [("cell", 1, 1, 9, 9)], "bad": text})
    assert words in refused(VocSource, path)


def test_what_is_missing_is_named(tmp_path):
    path = write_voc(tmp_path, {"one": [("cell", 1, 1, 9, 9)]})
    path.write_text("one\nother\n")
    assert "other.xml" in refused(VocSource, path)
    path.write_text("one\n")
    (tmp_path / "JPEGImages" / "one.jpg").unlink()
    assert "none for one in" in refused(VocSource, path)
    assert "Annotations" in refused(VocSource, tmp_path.parent / "elsewhere.txt")
    path.write_bytes(b"\xff\xfe\xff")
    assert "a text file" in refused(VocSource, path)


@pytest.mark.parametrize("own", ["one.jpg", "one.png", "one.JPEG"])
def test_the_image_of_the_annotations_name_comes_first(tmp_path, own):
    stated = annotation([("cell", 1, 1, 9, 9)]).replace("<annotation>", "<annotation><filename>old.jpg</filename>")
    path = write_voc(tmp_path, {"one": stated, "one.more": []})
    folder = tmp_path / "JPEGImages"
    shutil.copy(folder / "one.jpg", folder / "old.jpg")
    (folder / "one.jpg").rename(folder / own)
    assert [file.name for file in VocSource(path).files] == [own, "one.more.jpg"]
    (folder / own).unlink()
    assert VocSource(path).files[0].name == "old.jpg", "what the annotation states is the fallback"


def test_the_annotation_chooses_among_images_of_its_name(tmp_path):
    stated = annotation([("cell", 1, 1, 9, 9)]).replace("<annotation>", "<annotation><filename>one.png</filename>")
    path = write_voc(tmp_path, {"one": stated})
    for name in ("one.bmp", "one.png", "one.tif"):
        Image.new("RGB", (SIZE[1], SIZE[0])).save(tmp_path / "JPEGImages" / name)
    (tmp_path / "JPEGImages" / "one.jpg").unlink()
    assert VocSource(path).files[0].name == "one.png"
    assert VocSource(path, ("cell",), labelled=False).files[0].name == "one.bmp"


def test_nothing_to_find_is_an_error(tmp_path):
    assert "must hold boxes" in refused(VocSource, write_voc(tmp_path, {"one": [], "two": []}))


def test_unknown_classes_are_named(tmp_path):
    path = write_voc(tmp_path, {"one": [("cel", 1, 1, 9, 9)]})
    message = refused(VocSource, path, ["cell", "blob"], kind=UnknownNameError)
    assert "one.xml" in message and "did you mean 'cell'" in message


def test_an_image_of_another_size_than_its_annotation_says(tmp_path):
    source = VocSource(write_voc(tmp_path, {"one": annotation([("cell", 1, 1, 9, 9)], size=(30, 30))}))
    assert "(80, 40)" in refused(source.read, 0, kind=SharedInputError)


def test_coco_categories_in_the_order_of_their_ids(tmp_path):
    annotations = [
        coco_box(5, [10, 5, 20, 15]),
        coco_box(5, [0, 0, 8, 8], category=7),
        coco_box(5, [0, 0, 80, 40], iscrowd=1),
    ]
    source = CocoSource(write_coco(tmp_path, [coco_image(5), coco_image(6)], annotations))
    assert source.class_names == ["a", "b"]
    assert source.objects[0].boxes.tolist() == [[10, 5, 30, 20], [0, 0, 8, 8]]
    assert source.objects[0].labels.tolist() == [0, 1] and len(source.objects[1]) == 0
    assert source.notes[0].startswith("1 crowd regions dropped")


def test_coco_images_in_other_folders(tmp_path):
    path = write_coco(tmp_path / "images", [coco_image(5)], [coco_box(5, [0, 0, 8, 8])])
    moved = tmp_path / "annotations.json"
    path.rename(moved)
    assert "name data.images" in refused(CocoSource, moved)
    assert len(CocoSource(moved, [tmp_path, tmp_path / "images"]).files) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": [coco_box(5, [0, 0, 8, 8], category=4)]}, "a known category"),
        ({"annotations": [coco_box(9, [0, 0, 8, 8])]}, "a known image"),
        ({"annotations": [coco_box(5, [0, 0, 8])]}, "bbox of four numbers"),
        ({"annotations": [coco_box(5, ["0", 0, 8, 8])]}, "bbox of four numbers"),
        ({"annotations": [{"bbox": [0, 0, 8, 8]}]}, "category_id"),
        ({"images": {}}, "lists of images"),
        ({"images": [{"id": 5}]}, "file_name"),
    ],
)
def test_coco_files_that_cannot_be_understood(tmp_path, change, words):
    path = write_coco(tmp_path, [coco_image(5)], [coco_box(5, [0, 0, 8, 8])])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in refused(CocoSource, path)
    path.write_text("{")
    assert "JSON" in refused(CocoSource, path)


def spec_of(root, **changes):
    keys = {"train": "ImageSets/Main/train.txt", "test": "ImageSets/Main/test.txt", "validation": 1, **changes}
    return DataSpec(format="voc", root=str(root), **keys).resolved(root)


def test_two_coco_images_have_no_common_id(tmp_path):
    box, images = [coco_box(5, [0, 0, 8, 8])], [coco_image(5, "x.png"), coco_image(5, "y.png")]
    assert "x.png and y.png with the id 5" in refused(CocoSource, write_coco(tmp_path, images, box))
    source = CocoSource(write_coco(tmp_path, images[:1] * 2, box))
    assert len(source.files) == 1 and source.notes[0].startswith("1 images listed twice")
    assert "b and a with the id 3" in refused(CocoSource, write_coco(tmp_path, images[:1], box, [(3, "b"), (3, "a")]))
    assert CocoSource(write_coco(tmp_path, images[:1], box, [(3, "a"), (3, "a")])).class_names == ["a"]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": None}, "no list of categories"),
        ({"categories": {"id": 3}}, "no list of categories"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": "4", "name": "b"}]}, "3 and '4'"),
        ({"images": [coco_image(5), coco_image("6")]}, "all numbers or all texts"),
        ({"images": None}, "no list of images in"),
    ],
)
def test_coco_ids_and_categories_of_other_types(tmp_path, change, words, labelled):
    path = write_coco(tmp_path, [coco_image(5)], [coco_box(5, [0, 0, 8, 8])])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in refused(CocoSource, path, None, labelled)


def test_coco_classes_in_an_order_of_ones_own(tmp_path):
    boxes = [coco_box(5, [0, 0, 8, 8]), coco_box(5, [0, 0, 9, 9], category=7)]
    path = write_coco(tmp_path, [coco_image(5)], boxes, [(7, "b"), (3, "a"), (9, "unused")])
    source = CocoSource(path, classes=("b", "a"))
    assert source.class_names == ["b", "a"] and source.objects[0].labels.tolist() == [1, 0]
    message = refused(CocoSource, path, None, True, ("b", "aa"), kind=UnknownNameError)
    assert "the class of an object" in message and "did you mean 'aa'" in message
    assert "named once; received a" in refused(CocoSource, path, None, True, ("a", "b", "a"))
    spec = DataSpec(format="coco", train=str(path), classes=("b", "a"), labels=False, validation=1)
    assert spec.resolved(tmp_path).classes == ("b", "a")


def test_boxes_are_stretched_with_their_image(tmp_path):
    write_voc(tmp_path, {"one": [("cell", 11, 11, 40, 20)], "two": [("blob", 1, 1, 9, 9)], "three": []})
    splits = Splits(spec_of(tmp_path), (20, 20), 3)
    assert isinstance(splits.train, DetectionSet) and splits.num_classes == 2
    everything = {name: splits.train.source.files[name].stem for name in range(3)}
    rows = [row for row, index in enumerate(splits.train.indices) if everything[int(index)] == "one"]
    if rows:  # it may have been held out
        assert splits.train.targets(torch.tensor(rows))[0].boxes.tolist() == [[2.5, 5, 10, 10]]
    assert splits.train.images().shape == (2, 3, 20, 20)
    assert (
        splits.train.subset([0]).targets(torch.tensor([0]))[0].boxes.tolist()
        == splits.train.targets(torch.tensor([0]))[0].boxes.tolist()
    )


def test_parts_share_classes_and_no_image(tmp_path):
    train = {f"a{number}": [("cell", 1, 1, 9, 9)] for number in range(4)}
    write_voc(tmp_path, train)
    write_voc(tmp_path, {"t": [("cell", 1, 1, 9, 9)], "a1": train["a1"]}, "test")
    assert "share no image" in refused(Splits(spec_of(tmp_path), SIZE, 3).open_test)
    write_voc(tmp_path, {"t": [("dog", 1, 1, 9, 9)]}, "test")
    assert "t.xml" in refused(Splits(spec_of(tmp_path), SIZE, 3).open_test, kind=UnknownNameError)
    write_voc(tmp_path, {"t": []}, "test")
    assert "must hold boxes" in refused(Splits(spec_of(tmp_path), SIZE, 3).open_test)


def test_the_test_split_shares_no_image_with_validation(tmp_path):
    write_voc(tmp_path, {f"a{number}": [("cell", 1, 1, 9, 9)] for number in range(3)})
    for part in ("val", "test"):
        write_voc(tmp_path, {"v": [("cell", 1, 1, 9, 9)], part: []}, part)
    splits = Splits(spec_of(tmp_path, validation="ImageSets/Main/val.txt"), SIZE, 3)
    for read in (splits.look_at_test, splits.open_test):
        message = refused(read)
        assert "share no image" in message and "v.jpg" in message and "val.txt" in message
    assert splits.test_reads == 0


def test_looking_at_the_test_split_decodes_nothing(tmp_path):
    write_voc(tmp_path, {f"a{number}": [("cell", 1, 1, 9, 9)] for number in range(3)})
    write_voc(tmp_path, {"t": [("cell", 1, 1, 9, 9), ("cell", 1, 1, 9, 9)]}, "test")
    (tmp_path / "JPEGImages" / "t.jpg").write_bytes(b"no image")
    splits = Splits(spec_of(tmp_path), SIZE, 3)
    assert splits.notes == []
    assert splits.look_at_test().class_names == ["cell"] and splits.test_reads == 0
    assert [note.split(" in ")[0] for note in splits.notes] == ["1 boxes dropped: given twice"]
    assert "t.jpg" in refused(splits.open_test().images, kind=SharedInputError)


def test_coco_parts_with_categories_in_another_order(tmp_path):
    def part(name, *categories):
        return str(write_coco(tmp_path / name, [coco_image(5)], [coco_box(5, [0, 0, 8, 8])], categories))

    ordered = (3, "a"), (7, "b")
    parts = {
        "train": part("train", *ordered),
        "validation": part("val", *ordered),
        "test": part("t", (3, "b"), (7, "a")),
    }
    spec = DataSpec(format="coco", **parts)
    for named in (spec, spec.model_copy(update={"classes": ("a", "b")})):
        test = Splits(named, SIZE, 3).look_at_test()
        assert test.targets(torch.tensor([0]))[0].labels.tolist() == [1] and test.class_names == ["a", "b"]
    foreign = spec.model_copy(update={"test": part("f", (3, "c"), (7, "a"))})
    assert "same classes; received c in" in refused(Splits(foreign, SIZE, 3).look_at_test)


@pytest.mark.parametrize("keys", [{"name": "CIFAR10"}, {"images": ["x"]}])
def test_keys_that_voc_would_pass_over(tmp_path, keys):
    with pytest.raises(ValueError, match="data keys must suit format voc"):
        spec_of(tmp_path, **keys)


@settings(deadline=None, max_examples=30)  # files are written
@given(policy=st.sampled_from(MOVES_BOXES), seed=st.integers(0, 200))
def test_boxes_move_with_their_pixels(tmp_path_factory, policy, seed):
    """A white square on black: where the view is bright is where its box says."""
    root = tmp_path_factory.mktemp("moves")
    write_voc(root, {"one": [("cell", 21, 11, 40, 30)], "two": []})
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[10:30, 20:40] = 255
    Image.fromarray(pixels).save(root / "JPEGImages" / "one.png")
    (root / "JPEGImages" / "one.jpg").unlink()
    data = DetectionSet(VocSource(root), np.array([0, 1]), SIZE, 3)
    view = View.draw(policy, 2, SIZE, seed, 0)
    rows = torch.tensor([0, 1])
    (found, nothing), images = view.objects(data, rows), view.read(data, rows)
    assert len(nothing) == 0
    bright = (images[0, 0] > 190).nonzero()
    if len(found) == 0:  # mostly out of sight
        assert len(bright) < 0.3 * 20 * 20 * 1.6**2 + 20
        return
    seen = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1]).float()
    assert (found.boxes[0] - seen).abs().max() <= 1.5


def test_views_are_the_same_whatever_the_batches(tiny_detection):
    data = Splits(tiny_detection.data_spec(), (48, 64), 3).train
    view = View.draw("zoom_turn", len(data), data.size, 3, 1)
    rows = torch.arange(12)
    whole = view.read(data, rows)
    parts = torch.cat([view.read(data, part) for part in rows.split(5)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, View.draw("zoom_turn", len(data), data.size, 3, 2).read(data, rows))


def test_images_without_boxes(tmp_path):
    path = write_voc(tmp_path / "voc", {"one": [], "two": []})
    shutil.rmtree(tmp_path / "voc" / "Annotations")
    for place in (path, tmp_path / "voc" / "JPEGImages"):
        source = VocSource(place, ("b", "a"), labelled=False)
        assert source.class_names == ["b", "a"] and [file.stem for file in source.files] == ["one", "two"]
    assert "must hold images" in refused(VocSource, write_voc(tmp_path / "voc", {}, "none"), ("a",), False)
    coco = write_coco(tmp_path / "coco", [coco_image(1), coco_image(2)], [])
    coco.write_text(json.dumps({"images": json.loads(coco.read_text())["images"]}))
    assert len(CocoSource(coco, labelled=False).files) == 2
    assert "lists of images, annotations, categories" in refused(CocoSource, coco)
    spec = DataSpec(format="voc", train=str(path), validation=1, labels=False)
    splits = Splits(spec, SIZE, 3, boxes=True)
    assert isinstance(splits.train, DetectionSet) and len(splits.train) == len(splits.validation) == 1
    with pytest.raises(ValueError, match=r"names its classes in the order.*add data\.classes"):
        DataSpec(format="voc", train=str(path), test=str(path), labels=False)


def test_other_objects_in_the_same_images(tmp_path):
    write_voc(tmp_path, {"one": [("cell", 1, 1, 9, 9)], "two": [], "three": []})
    images = DetectionSet(VocSource(tmp_path), np.array([0, 2]), (20, 20), 3)
    objects = [Objects(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0])), Objects(torch.zeros(0, 4), torch.zeros(0))]
    other = reboxed(images, objects)
    assert [len(found) for found in other.targets(torch.arange(2))] == [1, 0]
    assert other.subset([0]).targets(torch.tensor([0]))[0].boxes.tolist() == [[1, 2, 3, 4]]
    assert torch.equal(other.images(), images.images())
    assert len({images.fingerprint, other.fingerprint, reboxed(images, objects[::-1]).fingerprint}) == 3
