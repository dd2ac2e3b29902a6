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

    def forward(self, images: Images) -> list[Tensor]:
        raise NotImplementedError  # every backbone has its own
