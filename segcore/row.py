"""A row of ``params.yaml`` with every value resolved: all keys, their defaults, their meaning."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field, StringConstraints, model_validator

from segcore.files import hash_of
from segcore.search import Search
from segcore.tables import NonNegative, Options, Positive, Published, Share, Size, Table, TestTime

__all__ = ["Run"]

ProtocolName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
"""Of files and figures, too."""

ELSEWHERE = {"workers", "device", "threads", "loader_workers", "decoded_cache"}
"""Keys that say where a training runs; its numbers do not follow them."""

AFTER_TRAINING = {"protocols", "published", "splits", "test_time", "benchmark_size"}
"""Keys of what only comes after a training, but for the little of it that validation follows."""


class Run(Table):
    """A row with every value resolved: all that training, evaluation and benchmark need."""

    method: str
    """A file of ``segcore/models``."""
    backbone: str
    """A name that ``build_backbone`` knows: timm's, or one of the project's own."""
    dataset: str
    """A key of ``datasets``."""
    options: Options = Field(default_factory=dict)
    """Keywords of the method; its own defaults are its published form."""
    backbone_options: Options = Field(default_factory=dict)
    """Keywords of the backbone."""
    output_stride: Positive | None = None
    """Pixels of the image per pixel of the last feature; the backbone's own unless given."""
    pretrained: bool = False
    """Whether the backbone starts from timm's ImageNet weights."""
    auxiliary: bool = True
    """Whether training has the heads on earlier features that a method may have."""
    init: str | None = None
    """The row whose trained weights training starts from, but for heads of other classes."""
    weights_of: str | None = None
    """The row whose trained weights are evaluated; this one has no training of its own."""

    steps: Positive
    """Updates of the weights."""
    batch_size: Positive
    """Images per step over all workers: the unit of a recipe."""
    micro_batch: Positive | None = None
    """The most images a worker takes through the network at once; the rest accumulates."""
    crop: Size
    """Height and width that training sees."""
    resize: Positive | Size | None = None
    """First of all, to this short side or stretched to this size; see ``Augmentation``."""
    scale: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.5, 2.0)
    """The range of the factor that both sides are scaled by."""
    aspect: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (1.0, 1.0)
    """The range of the factor that width over height is distorted by."""
    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    """The most degrees that every second image is turned by."""
    flip: Share = 0.5
    """The probability that an image is mirrored."""
    max_class_share: Annotated[float, Gt(0), Le(1)] = 0.75
    """The most of a crop that may be of one class, before another crop is drawn."""
    photometric: bool = True
    """Whether brightness, contrast, saturation and hue are distorted."""
    brightness: Annotated[int, Ge(0), Le(255)] = 0
    """The most levels of brightness that are added or taken away."""
    train_splits: Annotated[tuple[str, ...], MinLen(1)] = ("train",)
    """The splits that training draws from, as one; ``train_extra`` may be another."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """Of the backbone's weights, at its highest."""
    momentum: Share = 0.9
    """Of SGD."""
    weight_decay: NonNegative = 5e-4
    """Of every parameter."""
    decay_all: bool = True
    """If not, biases and the parameters of norms have no weight decay."""
    head_multiplier: Annotated[float, Gt(0)] = 1.0
    """Of the learning rate of what is not the backbone."""
    bias_multiplier: Annotated[float, Gt(0)] = 1.0
    """Of the learning rate of biases, but for those of norms."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate falls, step by step."""
    power: Annotated[float, Gt(0)] = 0.9
    """Of ``poly``."""
    min_learning_rate: NonNegative = 0.0
    """What it does not fall below."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Over so many first steps it rises linearly."""
    clip_norm: Annotated[float, Gt(0)] | None = None
    """The greatest length of the gradient of all parameters; a longer one is scaled down."""
    max_skipped: Annotated[int, Ge(0)] = 0
    """The most steps in succession that may be skipped because their loss or gradient is not
    finite; one more ends the training. Overflows while float16 looks for its scale are free."""
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = None
    """Of the moving average of the weights, which is then what is evaluated and kept."""
    freeze_batchnorm: bool = False
    """Whether the backbone's BatchNorm stays as it is: statistics, scales and shifts."""

    loss: Literal["cross_entropy", "dice", "lovasz", "ohem", "ohem_by_loss"] = "cross_entropy"
    """Of the main output."""
    loss_options: Options = Field(default_factory=dict)
    """Keywords of the loss."""
    auxiliary_weight: NonNegative | tuple[NonNegative, ...] = 0.4
    """Of the auxiliary outputs: one for all, or one for each."""
    presence_weight: NonNegative = 0.2
    """Of the loss on which classes an image shows, for methods that say so."""
    dice_weight: NonNegative = 0.0
    """With which the Dice loss is added to ``loss``."""
    lovasz_weight: NonNegative = 0.0
    """With which the Lovász-softmax loss is added to ``loss``."""
    class_weights: Literal["balanced"] | tuple[NonNegative, ...] | None = None
    """One for each class, or ``balanced``: by how often they occur in what training sees."""

    evaluate_every: Positive
    """Steps between evaluations on ``val``; the last step has one in any case."""
    save_every: Positive
    """Steps between checkpoints; the last step has one in any case."""
    patience: Positive | None = None
    """After so many evaluations in succession without a better one, training ends."""
    keep_best: Positive = 1
    """How many of the evaluated weights are kept, the best ones."""
    workers: Positive | tuple[Positive, Positive] = 1
    """How many, or the least and the most: then their group follows the size of its cluster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    threads: Positive = 1
    """CPU cores, and torch threads, of a worker."""
    loader_workers: Annotated[int, Ge(0)] = 0
    """Processes that load images for a worker; none: it does so itself."""
    decoded_cache: Annotated[float, Ge(0)] = 0.0
    """The most GB (10^9 bytes) of decoded images that this machine's disk keeps for all rows."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What training computes in, by autocast; ``auto``: bfloat16 on a GPU, float32 elsewhere."""
    sync_batchnorm: bool = True
    """Whether BatchNorm sees the batch of all workers."""
    channels_last: bool = True
    """Whether the channels of a pixel lie side by side in memory."""
    compile: bool = False
    """Whether ``torch.compile`` translates the network first."""
    seed: Annotated[int, Ge(0)] = 0
    """Of all that is random."""
    splits: Annotated[tuple[str, ...], MinLen(1)] = ("val",)
    """The splits that ``evaluate`` scores; the first one decides."""
    test_time: TestTime = TestTime()
    """How ``evaluate`` looks at an image: the protocol that decides."""
    protocols: dict[ProtocolName, TestTime] = Field(default_factory=dict)
    """Others that it scores them by as well, each by its name."""
    benchmark_size: Size | None = None
    """Height and width that ``benchmark`` measures at; the crop unless given."""
    search: Search | None = None
    """What ``tune`` tries; what it finds decides over all else."""
    published: Published | None = None
    """What somebody printed about this row."""

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if self.most_workers > self.batch_size:
            count = self.most_workers
            raise ValueError(f"batch_size {self.batch_size} is less than {count} workers")
        ranges = {"scale": self.scale, "aspect": self.aspect}
        ranges["workers"] = self.least_workers, self.most_workers
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{name} {(low, high)} runs backwards")
        return self

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def looks(self) -> dict[str, TestTime]:
        """How ``evaluate`` looks at images, by protocol; the one that decides has no name."""
        return {"": self.test_time, **self.protocols}

    def recipe(self) -> "Run":
        """The row without what only comes after its search and training: how its weights are
        scored and its network timed, and what somebody printed of it."""
        timed = self.search is not None and self.search.latency
        after = {"protocols": {}, "published": None}
        after |= {"splits": self.splits[:1], "test_time": self.test_time.single()}
        after |= {} if timed else {"benchmark_size": None}
        return self.model_copy(update=after)

    def recipe_fingerprint(self) -> str:
        """Names what decides the numbers of a training, on whatever machines it runs."""
        values = self.recipe().model_dump(mode="json", exclude={"search", *ELSEWHERE})
        return hash_of(values)
