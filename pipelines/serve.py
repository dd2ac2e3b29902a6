"""Serves a registered model on this machine: JPEG or PNG files in, labels and overlays out.

It is MLflow's scoring server (`mlflow models serve --env-manager local`) in this environment, which
builds none; docs/serving.md shows requests and what is refused. Ctrl-C ends it.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from pipelines.stage import run_safely
from pipelines.tracking import open_store
from segcore.errors import InputError

LARGEST_PIXELS = 1 << 26
"""That OpenCV decodes, whatever a header said before."""
SECONDS = 24 * 60 * 60
"""That MLflow lets a request take. After them it would answer, but go on to compute: the next
request would be let in beside it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="NAME[@ALIAS|@VERSION]", help="champion unless given")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines, too")
    parser.add_argument("--port", type=int, default=5001)
    arguments = parser.parse_args()
    run_safely(lambda: serve(arguments.model, arguments.host, arguments.port))


def serve(model: str, host: str, port: int) -> None:
    """Becomes the server. Raises InputError on an unknown model and where the port is taken."""
    name, _, version = model.partition("@")
    package = open_store(Path.cwd()).package(name, version or "champion")
    _check_free(host, port)
    print(f"{name}@{version or 'champion'}: http://{host}:{port}/invocations (Ctrl-C ends it)")
    sys.stdout.flush()
    application = [sys.executable, "-m", "uvicorn", "--factory", "pipelines.serving.door:build"]
    address = ["--host", host, "--port", str(port), "--log-level", "warning"]
    limits = ["--http", "pipelines.serving.patience:Patient", "--ws", "none", "--no-proxy-headers"]
    environment = os.environ | {
        "__pyfunc_model_path__": str(package),
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(LARGEST_PIXELS),
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(SECONDS),
        "MLFLOW_DISABLE_SCHEMA_DETAILS": "true",  # they hold the whole input
    }
    # A fresh process: the code that the model was trained with travels with it, and no other copy
    # of segcore may have been imported before.
    os.execve(sys.executable, [*application, *address, *limits], environment)


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            message = f"{host}:{port} cannot be served on ({error}); name another: --port"
            raise InputError(message) from None


if __name__ == "__main__":
    main()
