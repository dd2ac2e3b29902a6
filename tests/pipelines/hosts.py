"""Two hosts on this machine: network namespaces with a cable between them, as root on Linux.

They share the processor and the disk, but for Ray's own folders; each has its address, and the
cable can be cut.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.tiny_project import ROOT, environment, wait_until

ADDRESSES = "10.77.0.1", "10.77.0.2"
PORT = 6379
OWN_FOLDERS = "/tmp/ray", "/dev/shm"
QUICK = {"initial_delay_ms": "2000", "period_ms": "1000", "timeout_ms": "1000"}
QUICK |= {"failure_threshold": "3"}
"""A node that says nothing for some three seconds is dead."""


def unavailable() -> str:
    """Why there can be no hosts here, or nothing."""
    if sys.platform != "linux" or os.geteuid():
        return "needs root on Linux"
    if lacking := [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name)]:
        return f"needs {', '.join(lacking)}"
    name = f"segcore-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "may not make network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Host:
    """One of the two."""

    def __init__(self, name: str, address: str, token: str) -> None:
        self.name, self.address = name, address
        variables = {f"RAY_health_check_{key}": value for key, value in QUICK.items()}
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        variables |= {"GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(ROOT)}
        variables |= {"PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = environment(**variables)
        mounts = "; ".join(f"mount -t tmpfs none {folder}" for folder in OWN_FOLDERS)
        # this process holds the host's mounts; all others enter them
        script = f"{mounts}; echo up; exec sleep infinity"
        self.holder = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-ec", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout
        assert self.holder.stdout.readline() == "up\n"

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "--", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), env=self.environment, check=True, capture_output=True)

    def start_ray(self, *, head: str = "") -> None:
        """One CPU; joins the cluster of ``head``, or is the head."""
        ray = str(Path(sys.executable).with_name("ray"))
        role = [f"--address={head}:{PORT}"] if head else ["--head", f"--port={PORT}"]
        self.run(ray, "start", *role, f"--node-ip-address={self.address}", "--num-cpus=1")

    def processes(self, words: str = "") -> list[int]:
        """Those that run here, or those of them with these words in their command."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return [pid for pid in map(int, listed.stdout.split()) if words in command_of(pid)]

    def end_ray(self) -> None:
        for pid in self.processes():
            if pid != self.holder.pid:
                kill(pid)
        wait_until(lambda: self.processes() == [self.holder.pid], "the end of Ray on a host")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Ray runs on neither. Whatever was started on them ends with the block."""
    for folder in OWN_FOLDERS:
        Path(folder).mkdir(exist_ok=True)
    names, token = [f"segcore-{end}-{os.getpid()}" for end in "ab"], secrets.token_hex(32)
    hosts = list[Host]()
    try:
        for name in names:
            _ip("netns", "add", name)
        cable = ["link", "add", "eth0", "netns", names[0], "type", "veth"]
        _ip(*cable, "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            hosts.append(Host(name, address, token))
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            for pid in host.processes():
                kill(pid)
            host.holder.wait()
            assert host.holder.stdout
            host.holder.stdout.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
