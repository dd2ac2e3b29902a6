"""Where a backbone's pretrained weights come from, and what is said where there are none."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from segcore.backbones.backbone import Backbone
from segcore.errors import InputError


def folder_weights(name: str, folder: Path | None) -> Path:
    """The file with weights of a backbone for which none are published in timm's form."""
    path = folder / f"{name}.safetensors" if folder else None
    if path is None or not path.is_file():
        raise InputError(
            f"pretrained weights for backbone {name} are not published; name a weights_folder "
            f"that holds {name}.safetensors, or set pretrained to false"
        )
    return path


def load_weights(backbone: Backbone, path: Path) -> None:
    """A state dict of the backbone's own names. Raises InputError unless all of it fits."""
    try:
        backbone.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise InputError(f"{path} does not fit this backbone: {first}") from error


def weights_missing(name: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (
        f"pretrained weights for backbone {name} cannot be had ({cause}); fill timm's hub cache "
        f"where there is a network, or name a folder that holds {name}.safetensors, or set "
        "pretrained to false"
    )
