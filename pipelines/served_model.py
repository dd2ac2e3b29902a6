"""The model that the registry serves. This file travels inside the artifact, as does ``segcore``.

MLflow runs it as a "model from code", so nothing is pickled. Its top imports nothing of ours: what
it needs is the artifact's own copy, which is on the path only once a model is loaded.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mlflow.models import Model, ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext, save_model
from mlflow.types import Schema, TensorSpec

SERVED_WITH = ("mlflow", "torch", "torchvision", "timm", "numpy", "safetensors", "jaxtyping")
SERVED_WITH += ("pydantic", "pyyaml", "pillow", "scipy", "pyarrow", "fsspec")
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
)


class ServedModel(PythonModel):
    """Colour images to class labels: uint8 [n, h, w, 3] (RGB) to uint8 [n, h, w], any h and w."""

    def load_context(self, context: PythonModelContext) -> None:  # MLflow passes it by this name
        from segcore.runs import load_model

        network = load_model(Path(context.artifacts["model"])).network
        self.network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Raises ValueError where the input is no uint8 [n, h, w, 3]."""
        images = np.asarray(model_input)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"images must be uint8 [n, h, w, 3], RGB; these are {found}")
        labels = np.empty(images.shape[:3], np.uint8)
        for index, image in enumerate(images):  # one by one: memory does not grow with n
            labels[index] = self._labels(image)
        return labels

    @torch.inference_mode()
    def _labels(self, image: np.ndarray) -> np.ndarray:
        from segcore.inference import predict_labels

        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return predict_labels(self.network, pixels[None])[0].cpu().numpy()


def pack(files: Sequence[Path], target: Path, run_id: str) -> None:
    """Writes an MLflow model with these files and the code of ``segcore`` into an empty folder."""
    import segcore

    with TemporaryDirectory() as scratch:
        model, code = Path(scratch, "model"), Path(scratch, "segcore")
        model.mkdir()
        for file in files:
            copy2(file, model)
        copytree(Path(segcore.__file__).parent, code, ignore=ignore_patterns("__pycache__"))
        save_model(
            target,
            python_model=__file__,
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in SERVED_WITH],
            signature=SIGNATURE,
            input_example=np.zeros((1, 8, 8, 3), np.uint8),
            mlflow_model=Model(run_id=run_id),
        )


set_model(ServedModel())
