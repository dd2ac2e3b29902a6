"""Parameters, FLOPs, latency and peak memory of a row's network, on this machine.

Every row by the same rules, which ``benchmark.json`` states, but for its threads: float32, nothing
compiled, random weights in the layout that the row trains in.
"""

from typing import Any

import torch

from pipelines.lineage import lineage
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.files import write_json
from segcore.measure import measure
from segcore.model_files import build_network, in_layout
from segcore.runs import device_of
from segcore.shards import Manifest
from segcore.targets import classes_of

ROUNDS = 20


def main(key: str, project: Project) -> None:
    run = project.tuned_row(key)
    classes = Manifest.read(project.require_shards(run.dataset)).classes
    device = device_of(run)
    torch.set_num_threads(run.threads)
    run = run.model_copy(update={"pretrained": False, "auxiliary": False})
    torch.manual_seed(run.seed)
    network = in_layout(build_network(run, len(classes_of(run, classes))), run)
    size = run.benchmark_size or run.crop
    measured = measure(network.eval(), size, rounds=ROUNDS, device=device.type, precision="float32")
    result: dict[str, Any] = {**measured.as_dict(), "lineage": lineage(project.root)}
    if device.type == "cpu":
        result["device"] = result["lineage"]["hardware"]["processor"]
    write_json(project.run(key) / "benchmark.json", result)
    millions, billions = result["parameters"] / 1e6, result["flops"] / 1e9
    print(
        f"{key} at {size[0]}x{size[1]} on {result['device']}: {millions:.2f} M parameters, "
        f"{billions:.2f} GFLOPs, {result['fps']:.1f} images/s"
    )


if __name__ == "__main__":
    run_stage(main)
