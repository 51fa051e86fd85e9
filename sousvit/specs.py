"""What a user writes about a model, its data and its training. Light: checked YAML only, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from sousvit.checked import Checked, validated
from sousvit.errors import UserError
from sousvit.models.arguments import refuse_giants, refuse_other_weights
from sousvit.models.checkpoints.checkpoint import Imported
from sousvit.models.checkpoints.forms import is_source, open_source, resolved_source
from sousvit.models.preprocess import Preprocess
from sousvit.text.paths import exists, resolved

Task = Literal["classification", "detection"]
#: How training images are varied. ``zoom`` and ``zoom_turn`` (upside down as well) flip and scale, see
#: :mod:`sousvit.data.zoom`; ``randaugment`` (arXiv 1909.13719), ``mixup`` (1710.09412) and ``cutmix`` (1905.04899) come
#: on top of ``crop_flip``.
Policy = Literal["none", "flip", "crop_flip", "zoom", "zoom_turn", "randaugment", "mixup", "cutmix"]
#: What updates the weights; see :mod:`sousvit.spaces.training.optimizer`.
OptimizerName = Literal["muon", "adamw"]
#: Formats of data whose images hold boxes.
DETECTION_FORMATS = ("voc", "coco")
#: Formats whose keys are known here; one of a user's own takes any.
_SHIPPED_FORMATS = ("datasets", "parquet", "csv", "webdataset", "idx", "folder", "torchvision", *DETECTION_FORMATS)


Stride = Annotated[int, Field(ge=1, le=4096)]


class DetectorSpec(Checked):
    """The head that makes a detector of a plain ViT; see :mod:`sousvit.models.detector`.

    ``channels`` of the pyramid, ``strides`` of its maps in pixels (the patch size times powers of two), ``convs``
    before each output; boxes below ``score_threshold`` are dropped, and those that overlap a better one of their
    class by more than ``nms_threshold`` (intersection over union).
    """

    channels: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 64
    strides: Annotated[tuple[Stride, ...], Field(min_length=1, max_length=16)] = (8, 16, 32)
    convs: Annotated[int, Field(ge=1, le=64)] = 2
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = 0.6


#: In the place of a model's factory: the module was handed over in Python, and only that process has it.
MEMORY = "memory"


class ModelSpec(Checked):
    """Which base model. A checkpoint of most forms carries its own name, arguments, mean and std.

    ``checkpoint``, also written ``from``, is a file, a folder or a model of the hub in any form of
    :mod:`sousvit.models.checkpoints.forms`. ``name`` and ``args`` go to ``timm.create_model``, and win over what the
    checkpoint says; ``preprocess`` says how images reach the model, field by field in place of what the checkpoint
    says, and ``mean`` and ``std`` are short for those of ``preprocess``. With ``detector`` the model is a detector with
    that head, ``args.num_classes`` are its classes (without background). In short, text that can only be a path or a
    model of the hub is a checkpoint, and other text is the name of a model with timm's own weights.

    ``factory`` is for modules that timm does not make: ``package.module:function``, importable wherever trials run,
    is called with ``args`` and returns the module, which says in ``pretrained_cfg`` what it takes (``input_size``,
    ``mean``, ``std``); its weights come from ``checkpoint``, or are those that the function gave it.

    ``expected_accuracy`` is what the base is known to reach (mAP of a detector): a search that measures another figure
    stops before its first trial.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    name: str | None = None
    args: dict[str, Any] = Field(default={})
    checkpoint: str | None = None
    pretrained: bool = False
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    preprocess: Preprocess | None = None
    detector: DetectorSpec | None = None
    factory: str | None = None
    expected_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        if isinstance(value, Path):
            return {"checkpoint": str(value)}
        if isinstance(value, str):
            return {"checkpoint": value} if is_source(value) else {"name": value, "pretrained": True}
        if isinstance(value, Mapping) and "from" in value:
            if value.get("checkpoint") is not None:
                rule, given = "a model's weights come from one place", "from and checkpoint, which are the same key"
                raise UserError(rule, given, "remove one of the two")
            return {**{key: entry for key, entry in value.items() if key != "from"}, "checkpoint": value["from"]}
        return value

    @property
    def task(self) -> Task:
        """What the model does."""
        return "classification" if self.detector is None else "detection"

    @model_validator(mode="after")
    def _of_a_size(self) -> ModelSpec:
        if self.factory is None:
            refuse_other_weights(self.args)
            refuse_giants(self.args)
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> ModelSpec:
        if self.pretrained and self.checkpoint is not None:
            raise UserError(
                "a model's weights come from one place", "pretrained: true and a checkpoint", "remove one of the two"
            )
        if self.factory is not None and (self.pretrained or self.detector is not None):
            given = "pretrained" if self.pretrained else "detector"
            raise UserError("a factory makes the whole model", given, f"remove {given}")
        return self

    def resolved(self, folder: Path) -> ModelSpec:
        """The same with an absolute checkpoint path and what the checkpoint says of itself filled in.

        Raises:
            UserError: the checkpoint is missing or of no known form, its description is broken, or nothing names the
                model.
        """
        spec = self._located(folder)
        if spec.checkpoint is not None:
            source = resolved_source(spec.checkpoint, folder)
            spec = spec._described(source, open_source(source))
        if not spec.name and spec.factory is not None:
            return spec.model_copy(update={"name": spec.factory})
        if not spec.name:
            rule, action = "a model needs a name", "add model.name, or a checkpoint that names its model"
            raise UserError(rule, "none", action)
        return spec

    def _located(self, folder: Path) -> ModelSpec:
        """The same for a bare word.

        ``from: vit_tiny_patch16_224`` is timm's where no such file or folder lies there, and a name that timm does not
        know is the file or folder of that name.
        """
        word = self.checkpoint or (self.name if self.pretrained else None)
        if word is None or is_source(word) or (self.checkpoint is None) != exists(folder / word):
            return self
        import timm

        if timm.is_model(word):
            return self.model_copy(update={"name": word, "checkpoint": None, "pretrained": True})
        if exists(folder / word):
            return self.model_copy(update={"name": None, "checkpoint": word, "pretrained": False})
        return self

    def _described(self, source: str, found: Imported) -> ModelSpec:
        """The same with what the checkpoint at ``source`` says where nothing was given."""
        own: dict[str, Any] = {"name": found.name, "detector": found.detector}
        said = {} if found.preprocess is None else found.preprocess.model_dump(exclude_unset=True)
        for key in ("mean", "std"):
            value = said.pop(key, None)
            if getattr(self.preprocess, key, None) is None:
                own[key] = value
        if said:
            own["preprocess"] = Preprocess(**said)
        missing = {key: value for key, value in own.items() if value is not None and not getattr(self, key)}
        if self.preprocess is not None:
            missing["preprocess"] = self.preprocess.over(own.get("preprocess"))
        args = {**found.args, **self.args} if self.name in (None, found.name) else self.args
        if not found.classifier and "num_classes" not in self.args:
            raise UserError(
                "a model to compress has a classifier",
                f"{found.name} without one in {source}",
                "write args: {num_classes: N} for a new one, which sousvit train trains, or 0 for its features",
            )
        return validated(ModelSpec, {**self.model_dump(), **missing, "checkpoint": source, "args": args}, source)


Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
#: Of images that are held at once, or made.
SmallCount = Annotated[int, Field(ge=1, le=1_000_000)]
StrictCount = Annotated[int, Field(ge=1, strict=True)]


class LastRows(Checked):
    """Hold out the last rows of the training data, in file order."""

    last: Count


#: What stands for data that there is none of.
NO_DATA = "none"
#: Images held out for judging where all of them are synthesised, unless the user says how many.
HELD_OUT = 512
DEFAULT_VALIDATION = 0.1
#: Validation images are parted (some judge trials, others confirm the answer) where each part has at least so many.
LEAST_PART = 100


#: One path, or several whose images make one part. A path may be a glob (``train-*.parquet``) or hold braces
#: (``part-{000..009}.tar``).
Paths = str | tuple[str, ...]
#: In the place of class names: sorted as a person would (1, 2, 10) and not as text (1, 10, 2).
NATURAL = "natural"
#: Keys that only some of the shipped formats take.
_OWN_KEYS = {
    "name": ("torchvision",),
    "images": ("coco", "csv"),
    "columns": ("parquet", "datasets", "csv", "webdataset"),
}
_PATH_KEYS = ("train", "test")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_names(value: object) -> object:
    """Class names that YAML reads as numbers, such as folders called 1, 2, 10, as text."""
    if not isinstance(value, list | tuple):
        return value
    return [str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in value]


class Columns(Checked):
    """Which columns of a table (or endings in a WebDataset) hold images and labels; found where they are not named."""

    image: str | None = None
    label: str | None = None


class DataSpec(Checked):
    """Where the data is and how it is split.

    ``train``, ``validation`` and ``test`` are paths, globs, or lists of them. ``validation`` may instead be a fraction
    or a count (drawn at random with ``split_seed``), or ``{last: N}`` rows of the training data. Paths are relative to
    the file that holds this spec, or to ``root`` where that is given. ``root`` alone (or ``train`` with such a folder)
    stands for the parts called train, val(idation) and test below it. ``format`` may be left out where the paths show
    it.

    ``classes`` are names in the order of the model's labels; classes of the data that it leaves out are left out of
    every part. By default folders and words are sorted as text, as torchvision does, and ``natural`` sorts them as a
    person would. Where labels are numbers, ``classes`` are their names.

    ``voc``: parts are lists of image names (``ImageSets/Main/train.txt``), beside whose top folder ``Annotations``
    and ``JPEGImages`` lie. ``coco``: parts are JSON files; ``images`` are the folders of their images, the JSON's own
    by default. ``classes`` are the names to find, in the order of the model's labels; by default those that VOC's
    training part names, in alphabetical order, or COCO's categories in the order of their ids.

    ``labels: false`` says that training and validation images have no labels (a test split always has). ``data: none``
    (short for ``format: none``), or ``train: none`` beside a test split, says that there are no images: then they
    are synthesised from the base, as ``synthesis`` says (the parameters of the technique ``synthesize``), and
    ``validation`` may only be the count of those held out for judging (and of others, for the answer alone).
    """

    format: str | None = Field(
        default=None, description="a name of sousvit.data.formats; found by the paths if left out"
    )
    train: Paths | None = None
    test: Paths | None = None
    validation: StrictCount | Fraction | LastRows | Paths = DEFAULT_VALIDATION
    name: str | None = Field(default=None, description="torchvision class name")
    root: str | None = Field(default=None, description="where paths start, or the folder that holds all parts")
    classes: Annotated[tuple[str, ...] | Literal["natural"], BeforeValidator(_as_names)] | None = Field(
        default=None, description="class names, in label order"
    )
    images: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = Field(
        default=None, description="coco and csv: folders that hold the images"
    )
    columns: Columns = Field(default=Columns(), description="tables: where images and labels stand")
    limit_train: Count | None = Field(default=None, description="use at most this many training images")
    calibration: SmallCount = Field(default=512, description="training images for calibration and repair")
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    labels: bool = Field(default=True, description="whether training and validation images are labelled")
    synthesis: dict[str, Any] = Field(default={}, description="how images are made where there are none")

    @model_validator(mode="before")
    @classmethod
    def _none_at_all(cls, value: Any) -> Any:
        return {"format": NO_DATA} if value == NO_DATA else value

    @property
    def kind(self) -> Literal["labelled", "unlabelled", "none"]:
        """What training images there are."""
        if NO_DATA in (self.format, self.train):
            return "none"
        return "labelled" if self.labels else "unlabelled"

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return self.test is not None or self.format == "torchvision"

    @property
    def validation_name(self) -> str:
        """What a search judges on."""
        names = {"labelled": "validation", "unlabelled": "images without labels", "none": "held-out synthesised images"}
        return names[self.kind]

    @property
    def final_name(self) -> str:
        """What the answer is judged on."""
        fresh = "fresh synthesised images" if self.kind == "none" else self.validation_name
        return "the test split" if self.has_test else fresh

    @property
    def final_is_validation(self) -> bool:
        """Whether there is nothing but validation images to judge the answer on."""
        return not self.has_test and self.kind != "none"

    @property
    def held_out(self) -> int:
        """How many synthesised images judge recipes; as many others judge the answer."""
        return self.validation if isinstance(self.validation, int) else HELD_OUT

    @model_validator(mode="after")
    def _nothing_for_no_images(self) -> DataSpec:
        """Refuse keys that speak of training images where there are none, and names whose order nobody knows."""
        if self.format == "voc" and self.kind != "labelled" and self.test is not None and self.classes is None:
            raise UserError(
                "without boxes to learn from, VOC data names its classes in the order of the model's labels",
                "none",
                "add data.classes",
            )
        if self.kind != "none":
            if self.synthesis:
                raise UserError("synthesis makes images where there are none", "data with images", "remove synthesis")
            return self
        of_test = ("root", "classes", "images") if self.format in DETECTION_FORMATS or self.test is not None else ()
        described = [key for key in ("limit_train", "name", "root", "classes", "images") if key not in of_test]
        ignored = [key for key in described if getattr(self, key) is not None]
        ignored += ["labels: false"] if not self.labels else []
        if self.format == NO_DATA:
            ignored += ["train"] if self.train not in (None, NO_DATA) else []
            ignored += ["test"] if self.test is not None else []
        if ignored:
            action = "name the test split's format and write train: none" if "test" in ignored else "remove them"
            raise UserError("data: none has no images to describe", ", ".join(ignored), action)
        if not isinstance(self.validation, int) and self.validation != DEFAULT_VALIDATION:
            raise UserError(
                "without images, validation is the count of synthesised ones to judge on",
                self.validation,
                f"write for instance validation: {HELD_OUT}, or leave it out",
            )
        return self

    @model_validator(mode="after")
    def _nothing_ignored(self) -> DataSpec:
        """Refuse keys that the format would pass over."""
        if self.format is None:
            return self
        given = [key for key, formats in _OWN_KEYS.items() if self.format not in formats and self._says(key)]
        ignored = [key for key in given if self.format in _SHIPPED_FORMATS]
        if self.format == "torchvision":
            ignored += [key for key in _PATH_KEYS if self._says(key)]
            ignored += ["validation (a path)"] if isinstance(self.validation, str | tuple) else []
        if self.format in DETECTION_FORMATS and self.classes == NATURAL:
            ignored.append("classes: natural")
        if ignored:
            raise UserError(f"data keys must suit format {self.format}", ", ".join(ignored), "remove them")
        return self

    def _says(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default

    @property
    def task(self) -> Task | None:
        """What such data teaches; None for images alone, which suit every model."""
        if self.format in DETECTION_FORMATS:
            return "detection"
        return "classification" if self.kind == "labelled" or self.has_test else None

    def resolved(self, folder: Path) -> DataSpec:
        """The same with absolute paths."""
        root = None if self.root is None else _absolute(self.root, folder)
        start = folder if root is None else Path(root)
        parts = ("train", "test", *(["validation"] if isinstance(self.validation, str | tuple) else []))
        changes: dict[str, Any] = {part: _absolute_paths(getattr(self, part), start) for part in parts}
        images = None if self.images is None else tuple(_absolute(entry, start) for entry in self.images)
        return self.model_copy(update={**changes, "root": root, "images": images})


def paths_of(given: object) -> tuple[str, ...]:
    """The paths that a part of the data is told by; none where it is told by a number, or not at all."""
    return (given,) if isinstance(given, str) else given if isinstance(given, tuple) else ()


def _absolute_paths(given: Paths | None, start: Path) -> Paths | None:
    if given is None or given == NO_DATA:
        return given
    return _absolute(given, start) if isinstance(given, str) else tuple(_absolute(entry, start) for entry in given)


def _absolute(text: str, start: Path) -> str:
    """With ``~`` and links replaced."""
    return str(resolved(text, start))


def require_test_path(data: DataSpec) -> None:
    """Check that there is a test split to judge the answer on, wherever there are labels.

    Raises:
        UserError: there is none.
    """
    if data.kind == "labelled" and not data.has_test:
        raise UserError("data needs a test path", "none", "add data.test: the answer is judged on it")


def require_task(model: ModelSpec, data: DataSpec) -> None:
    """Check that the data teaches what the model does.

    Raises:
        UserError: boxes for a classifier, or classes for a detector.
    """
    if data.task not in (None, model.task):
        raise UserError(
            "model and data have one task",
            f"a model for {model.task}, data of format {data.format} for {data.task}",
            "a detector has model.detector and data of format voc or coco; a classifier neither",
        )
