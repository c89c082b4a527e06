"""The worker processes: one per device, started here, or a Dask cluster connected to.

Our own listen on this machine only and take tasks from the holder of a key that lives in this process.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, Status

from node.config import ComputeSection
from node.confined import ConfinedWorker
from node.errors import PerformError
from node.worker import WorkerSetup
from pipelines.performing import has_gpu

CONNECT_S = 10.0

log = structlog.get_logger(__name__)
#: Our own workers listen on this address only.
_HOST = "127.0.0.1"

#: What we change of Dask's defaults, for our own cluster only.
DASK_SETTINGS: Mapping[str, Any] = {
    # The default sets OMP_NUM_THREADS=1 in *this* process and its workers; `random` is Python's own default.
    "distributed.nanny.pre-spawn-environ": {"PYTHONHASHSEED": "random"},
    # A hung worker is ours to kill, by the manifest's limit and not after five minutes.
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


def find_devices(section: ComputeSection) -> tuple[str, ...]:
    """The devices to use, one worker process each: those configured, else every GPU, else the CPU."""
    if section.devices:
        return section.devices
    if not has_gpu():
        return ("cpu",)
    # torch is asked, because its build must fit the driver; in a process of its own, because the node does without it.
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
        capture_output=True,
        text=True,
        check=False,
    )
    count = int(asked.stdout) if asked.returncode == 0 else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def start_workers(section: ComputeSection, scratch: Path, *, output: str) -> SpecCluster:
    """Start a scheduler in this process, and a worker process with its nanny for each device.

    What they print goes to the pipe `output` (`node.output`).
    """
    devices = find_devices(section)
    threads = section.threads or max(1, len(os.sched_getaffinity(0)) // len(devices))
    folders = {device: worker_folder(scratch, device) for device in devices}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # Whoever reaches a Dask scheduler runs code as its user: a key that lives in this process keeps out the machine's
    # other users.
    secure = {"host": _HOST, "protocol": "tls://", "security": _security()}
    options = {
        **secure,
        "nthreads": 1,
        "memory_limit": None,  # per run, by `_watch`
        "dashboard": False,
        "silence_logs": logging.WARNING,
    }
    return SpecCluster(
        security=secure["security"],
        scheduler={
            "cls": Scheduler,
            "options": {
                **secure,
                "port": 0,
                "dashboard": False,
                "dashboard_address": f"{_HOST}:0",
                "allowed_failures": 0,
            },
        },
        workers={
            device: {
                "cls": Nanny,
                "options": {
                    **options,
                    **_confinement(section, folder, output),
                    "local_directory": str(folder),
                    "env": {**_environment(device, threads), **_caches(folder / "cache")},
                    "plugins": [
                        WorkerSetup(device=_as_seen(device), scratch=folder, output=output)
                    ],
                },
            }
            for device, folder in folders.items()
        },
    )


def worker_folder(scratch: Path, device: str) -> Path:
    """Where the worker of a device writes, and nowhere else when it is confined."""
    return scratch.absolute() / f"worker-{device.replace(':', '-')}"


def _confinement(section: ComputeSection, folder: Path, output: str) -> dict[str, Any]:
    if not section.confine:
        return {}
    return {"worker_class": ConfinedWorker, "may_write": (folder,), "output": Path(output)}


def revive(cluster: SpecCluster) -> None:
    """Start workers whose nanny gave up.

    Dask ends a nanny that cannot start a process, for want of a descriptor or of memory, and the device would be idle
    until the node's next start.
    """
    if cluster.status is not Status.running:
        return
    ended = [
        name
        for name, nanny in tuple(cluster.workers.items())
        if nanny.status in (Status.closed, Status.failed)
    ]
    for name in ended:
        cluster.workers.pop(name, None)
    if ended:
        log.warning("workers_started_again", devices=ended)
        # To as many as there are to be: what is missing is started.
        cluster.scale(len(cluster.worker_spec))


def _security() -> Security:
    """A key and its own certificate for scheduler and workers, in this process's memory only.

    As `Security.temporary`, whose certificate begins now and ends in a year: no worker would come again once the clock
    was set back, or after a year without a restart. RFC 5280 4.1.2.5: 99991231235959Z is no expiration.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "osteonode")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    shown = certificate.public_bytes(Encoding.PEM).decode()
    kept = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=shown,
        **{f"tls_{role}_key": kept for role in roles},
        **{f"tls_{role}_cert": shown for role in roles},
    )


def _environment(device: str, threads: int) -> dict[str, str]:
    """What must be set before torch and SimpleITK are loaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    family, _, number = device.partition(":")
    ids = visible.split(",") if visible else []
    chosen = number or "0"
    if family != "cuda":
        chosen = ""
    elif ids:
        chosen = ids[int(chosen)]
    return {
        "CUDA_VISIBLE_DEVICES": chosen,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
    }


def _caches(folder: Path) -> dict[str, str]:
    """What libraries write to the home folder otherwise, compiled kernels most of all."""
    return {
        name: str(folder / library)
        for name, library in (
            ("XDG_CACHE_HOME", "xdg"),
            ("MPLCONFIGDIR", "matplotlib"),
            ("CUDA_CACHE_PATH", "cuda"),
            ("TRITON_CACHE_DIR", "triton"),
            ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
        )
    }


def _as_seen(device: str) -> str:
    """The device's name in its worker, which sees one GPU only."""
    return "cuda:0" if device.startswith("cuda") else device


def connect_to(address: str, scratch: Path) -> Client:
    """Connect to a cluster that somebody else runs.

    Raises
    ------
    PerformError
        Code `no-cluster`, when its scheduler does not answer.
    """
    try:
        client = Client(address, set_as_default=False, timeout=CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise PerformError(
            "no-cluster",
            f"The Dask scheduler {address} does not answer ({error}): start it, or correct [compute] scheduler.",
        ) from error
    client.register_plugin(WorkerSetup(device="", scratch=scratch))
    return client


def use_our_logging() -> None:
    """Importing distributed gives its loggers handlers of their own; let the node's have their lines."""
    for name in ("distributed", "distributed.client", "distributed.gc", "tornado", "bokeh"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(logger.level, logging.WARNING))
