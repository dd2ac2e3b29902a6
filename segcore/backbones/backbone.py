"""What every backbone is."""

from torch import Tensor, nn

from segcore.types import Images


class Backbone(nn.Module):
    """Images to features, fine to coarse, without the stem's (those finer than stride 4).

    Feature i has ``channels[i]`` channels and one value per ``strides[i]`` pixels of the image a
    side (rounded). What changes features and not methods is a backbone around a backbone;
    ``JointPyramid`` makes the last feature finer than the one before.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def coarsest_stride(self) -> int:
        """That of the coarsest map on the way to the features: the fewest pixels a side that an
        image may have. A backbone around a backbone has the inner one's."""
        return max(self.strides)

    def index_of(self, stride: int) -> int:
        """Which feature is meant by a stride: of several the last, which has seen the most."""
        return max(i for i, each in enumerate(self.strides) if each == stride)

    def forward(self, images: Images) -> list[Tensor]:
        raise NotImplementedError  # every backbone has its own
