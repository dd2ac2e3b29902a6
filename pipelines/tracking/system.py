"""The machine's load, sampled into a run: MLflow's own monitor, with what it lacks here."""

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipelines.hardware import gpu_loads

RETRY_SECONDS = 20.0


class SystemMetrics(SystemMetricsMonitor):
    """Samples processor, memory, disk, network and GPUs of this machine.

    MLflow's monitor ends for good when its server does not answer once; this one asks again. And
    where NVML's Python package is missing, GPUs are read from the driver's own tool.
    """

    def monitor(self) -> None:
        while True:
            super().monitor()
            if self._shutdown_event.wait(RETRY_SECONDS):
                return

    def _initialize_gpu_monitor(self) -> BaseMetricsMonitor | None:
        return super()._initialize_gpu_monitor() or (NvidiaSmi() if gpu_loads() else None)


class NvidiaSmi(BaseMetricsMonitor):
    """GPUs as ``nvidia-smi`` sees them, under the names that MLflow gives."""

    def collect_metrics(self) -> None:
        for number, load in enumerate(gpu_loads()):
            for name, value in load.items():
                self._metrics[f"gpu_{number}_{name}"].append(value)

    # MLflow's base class says nothing of what is returned, which is taken for None.
    def aggregate_metrics(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, float]:
        return {name: round(sum(seen) / len(seen), 1) for name, seen in self._metrics.items()}
