"""A row of ``params.yaml`` with every value resolved: all keys, their defaults, their meaning."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Field, model_validator

from segcore.files import hash_of
from segcore.search import Search
from segcore.tables import NonNegative, Options, Positive, Published, Share, Size, Table, TestTime

__all__ = ["Run"]


class Run(Table):
    """A row with every value resolved: all that training, evaluation and benchmark need."""

    method: str
    backbone: str
    dataset: str
    options: Options = Field(default_factory=dict)
    backbone_options: Options = Field(default_factory=dict)
    output_stride: Positive | None = None
    pretrained: bool = False
    auxiliary: bool = True
    init: str | None = None
    """The row whose trained weights training starts from, but for heads of other classes."""
    weights_of: str | None = None
    """The row whose trained weights are evaluated; this one has no training of its own."""

    steps: Positive
    batch_size: Positive
    """Images per step over all workers: the unit of a recipe."""
    micro_batch: Positive | None = None
    """The most images a worker takes through the network at once; the rest accumulates."""
    crop: Size
    resize: Positive | Size | None = None
    """First of all, to this short side or stretched to this size; see ``Augmentation``."""
    scale: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.5, 2.0)
    aspect: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (1.0, 1.0)
    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    flip: Share = 0.5
    max_class_share: Annotated[float, Gt(0), Le(1)] = 0.75
    photometric: bool = True
    brightness: Annotated[int, Ge(0), Le(255)] = 0

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Gt(0)] = 0.01
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    head_multiplier: Annotated[float, Gt(0)] = 1.0
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: Annotated[float, Gt(0)] = 0.9
    min_learning_rate: NonNegative = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 0

    loss: Literal["cross_entropy", "dice", "lovasz", "ohem", "ohem_by_loss"] = "cross_entropy"
    loss_options: Options = Field(default_factory=dict)
    auxiliary_weight: NonNegative | tuple[NonNegative, ...] = 0.4
    """Of the auxiliary outputs: one for all, or one for each."""
    presence_weight: NonNegative = 0.2
    dice_weight: NonNegative = 0.0
    lovasz_weight: NonNegative = 0.0
    """The region losses are added to ``loss``, with these weights."""
    class_weights: Literal["balanced"] | tuple[NonNegative, ...] | None = None
    """One for each class, or ``balanced``: by how often they occur in the training split."""

    evaluate_every: Positive
    save_every: Positive
    workers: Positive = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1
    """CPU cores, and torch threads, of a worker."""
    loader_workers: Annotated[int, Ge(0)] = 0
    decoded_cache: Annotated[float, Ge(0)] = 0.0
    """The most GB (10^9 bytes) of decoded images that this machine's disk keeps for all rows."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    sync_batchnorm: bool = True
    channels_last: bool = True
    compile: bool = False
    seed: Annotated[int, Ge(0)] = 0
    splits: Annotated[tuple[str, ...], MinLen(1)] = ("val",)
    """The splits that ``evaluate`` scores; the first one decides."""
    test_time: TestTime = TestTime()
    benchmark_size: Size | None = None
    """Height and width that ``benchmark`` measures at; the crop unless given."""
    search: Search | None = None
    published: Published | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if self.workers > self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} is less than {self.workers} workers")
        for name in ("scale", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} {(low, high)} runs backwards")
        return self

    def fingerprint(self) -> str:
        """Names the configuration in run names, so that no state leaks into another one."""
        return hash_of(self.model_dump(mode="json", exclude={"search", "published"}))
