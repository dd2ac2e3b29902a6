"""The tables of ``params.yaml`` beside and inside a row: their keys and what they mean."""

from operator import gt
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    model_validator,
)

from segcore.errors import InputError

Positive = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
NonNegative = Annotated[float, Ge(0)]
Size = tuple[Positive, Positive]
Options = dict[str, Any]
KINDS = {"choice", "uniform", "loguniform", "int"}
"""What a space is called that a search draws a value from."""


def without_credential(address: str) -> str:
    """The address. Raises InputError, which does not show it, where it holds more than a place."""
    kind, _, rest = address.rpartition("://")
    if kind and ("@" in rest.partition("/")[0] or "?" in rest):
        what = "this address holds a user, a password or a query"
        raise InputError(f"{kind}://...: {what}; {CREDENTIALS}")
    return address


CREDENTIALS = "credentials belong in the environment that this storage reads (docs/data.md)"
Address = Annotated[str, AfterValidator(without_credential)]
"""Of a folder: a path, or ``s3://bucket/folder`` and whatever else fsspec knows."""


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tile(Table):
    """How an image larger than ``size`` (height, width) is cut."""

    size: Size
    overlap: Annotated[int, Ge(0)] = 0
    """Pixels that neighbours share at least."""

    @model_validator(mode="after")
    def _consistent(self) -> "Tile":
        if self.overlap >= min(self.size):
            raise ValueError(f"overlap {self.overlap} is not less than the tile {list(self.size)}")
        return self


class Treatment(Table):
    """What ``prepare`` does to a dataset's images, and bears; nothing unless asked."""

    max_side: Positive | None = None
    """Larger images are shrunk until their longer side has so many pixels."""
    image_format: Literal["keep", "jpeg", "webp"] = "keep"
    """``keep``: the file's own bytes, a lossless PNG where they were changed."""
    tile: Tile | None = None
    skip_bad: Annotated[int, Ge(0)] = 0
    """So many samples that cannot be used are left out, and told; one more is refused."""


class DatasetTable(Treatment):
    """Where the images of one dataset come from, and what its rows do unless they say else."""

    form: str | None = None
    """The dataset file that reads it; the table's own key unless given (``folder``: your own)."""
    options: Options = {}
    drop: str | None = None
    """The drop folder; ``data/drop/<dataset>`` unless given."""
    images_per_shard: Positive = 256
    shards: Address | None = None
    """The address of the prepared dataset, where somebody published it: nothing is done here."""
    recipe: Options = {}

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetTable":
        unread = self.model_fields_set - {"shards", "recipe"}
        if self.shards and unread:
            raise ValueError(f"{min(unread)!r} says nothing beside shards; remove one of them")
        return self


class StorageTable(Table):
    """Where machines that share no disk with this one get prepared datasets from."""

    place: Address
    private: bool = False
    """Only people who may have every dataset can read it; some licences ask for that."""


class Refinement(Table):
    """How ``refine`` corrects the labels of a row."""

    by: str
    """A row of the method ``segfix``, trained on whatever dataset."""
    step: Positive = 2
    """Pixels along each axis that a corrected label is taken from."""


class TestTime(Table):
    """How ``evaluate`` looks at an image, and where it scores: the whole image unless asked.

    Labels come at the size of the dataset's own, but for a ``crop``. Class probabilities are
    averaged over all scales and flips; in windows, scores where windows overlap.
    """

    __test__ = False  # pytest would take it for a test by its name

    resize: Positive | Size | None = None
    """First of all, to this short side or stretched to this size."""
    crop: Size | None = None
    """Only the middle of the resized image is looked at, and of its resized labels."""
    scales: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (1.0,)
    """Factors that the image is resized by."""
    flip: bool = False
    """Every scale mirrored as well."""
    window: Size | None = None
    """An image larger than this is seen through windows of this size, the last one moved inward."""
    stride: Size | None = None
    """From one window to the next, downward and to the right."""

    @model_validator(mode="after")
    def _consistent(self) -> "TestTime":
        if (self.window is None) != (self.stride is None):
            raise ValueError("window and stride say something only together; give both or neither")
        if self.window and self.stride and any(map(gt, self.stride, self.window)):
            gap = f"stride {list(self.stride)} leaves gaps between windows of {list(self.window)}"
            raise ValueError(f"{gap}; make it smaller")
        if self.crop and self.resize is None:
            raise ValueError("crop needs resize, so that every image is large enough for it")
        if self.crop and self.resize is not None:
            sides = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
            if any(map(gt, self.crop, sides)):
                raise ValueError(f"crop {list(self.crop)} does not fit into resize {self.resize}")
        return self

    def single(self) -> "TestTime":
        """One look at the whole image, as validation in training, ``predict`` and a server have
        it: resized and through windows as here, at one scale and not mirrored."""
        return TestTime(resize=self.resize, window=self.window, stride=self.stride)


Metric = Literal["miou", "pixel_accuracy", "mean_of_both"]
Percent = Annotated[float, Ge(0), Le(100)]


class Published(Table):
    """What somebody printed about a row. It stands beside a run and changes nothing in it."""

    source: str
    paper: Annotated[str, StringConstraints(pattern=r"^arXiv:\d{4}\.\d{4,5}$")]
    metrics: Annotated[tuple[Metric, ...], MinLen(1)]
    """What is measured; ``mean_of_both`` is (mIoU + pixel accuracy) / 2."""
    score: tuple[Percent, ...] = ()
    """One figure per metric, in percent; none where the source prints none."""
    crop_score: tuple[Percent, ...] = ()
    """The same on crops, as the source's training measures itself."""
    paper_score: Percent | None = None
    """The paper's own mIoU, where the source prints it beside its own."""
    fps: Annotated[float, Gt(0)] | None = None
    pretraining: str = ""
    setting: str = ""
    """What else the source says, in its words; or what of that the row leaves out."""
    assumed: tuple[str, ...] = ()
    """The row's keys whose values nobody printed."""

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.paper.removeprefix('arXiv:')}"

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        for name, figures in (("score", self.score), ("crop_score", self.crop_score)):
            if figures and len(figures) != len(self.metrics):
                raise ValueError(f"{name} {list(figures)} must be one figure per metric")
        return self


def merged(below: Options, above: Options) -> Options:
    """``above`` over ``below``; tables within are merged key by key, but for what is drawn from."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict) and not KINDS & value.keys():
            value = merged(inner, value)
        result[key] = value
    return result


def with_values(values: Options, dotted: Options) -> Options:
    """``values`` with keys such as ``options.width`` replaced."""
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merged(values, value)
    return values
