"""The model that the registry serves. This file travels inside the artifact, as does ``segcore``.

MLflow runs it as a "model from code", so nothing is pickled. Its top imports nothing of ours: what
it needs is the artifact's own copy, which is on the path only once a model is loaded.
"""

from base64 import b64encode
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext, save_model
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType

SERVED_WITH = ("mlflow", "torch", "torchvision", "timm", "numpy", "safetensors", "jaxtyping")
SERVED_WITH += ("pydantic", "pyyaml", "pillow", "scipy", "pyarrow", "fsspec", "matplotlib")
SERVED_WITH += ("opencv-python-headless", "isal")

# A row is one image in one of two forms: `image` (a JPEG or PNG file) is answered with `labels` and
# `overlay` (PNG files), `pixels` (uint8 [h, w, 3], RGB) with `label_map` (uint8 [h, w]).
SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec("binary", "image", required=False), ColSpec(AnyType(), "pixels", required=False)]
    ),
    outputs=Schema(
        [
            ColSpec("binary", "labels", required=False),
            ColSpec("binary", "overlay", required=False),
            ColSpec(AnyType(), "label_map", required=False),
        ]
    ),
)


class ServedModel(PythonModel):
    """Images of any height and width to class labels, in the forms of ``SIGNATURE``."""

    def load_context(self, context: PythonModelContext) -> None:  # MLflow passes it by this name
        from segcore.model_files import load_model

        loaded = load_model(Path(context.artifacts["model"]))
        self.network = loaded.network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.classes, self.how = loaded.classes, loaded.config.test_time.single()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """``segcore.serving.answer`` for the rows of a DataFrame. Raises MlflowException, which a
        server says with status 400, on what cannot be used."""
        from segcore.errors import InputError
        from segcore.serving import answer

        try:
            return answer(self.network, self.classes, model_input.to_dict("records"), self.how)
        except InputError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None


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
            input_example=_example(),
            mlflow_model=Model(run_id=run_id),
        )


def _example() -> list[dict[str, str]]:
    """A black image, as JSON carries it."""
    _, file = cv2.imencode(".png", np.zeros((128, 128, 3), np.uint8))
    return [{"image": b64encode(file.tobytes()).decode()}]


set_model(ServedModel())
