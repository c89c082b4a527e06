"""A Dask worker that is confined before it does anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed import Worker
from distributed.comm import get_address_host_port

from node.confinement import confine


class ConfinedWorker(Worker):  # type: ignore[misc]
    """Writes to folders of its own, talks to its scheduler and its nanny.

    Not to other workers: a task of ours needs no result of another one. `Nanny(worker_class=...)` makes one in each
    process it starts, the one after a death too.

    Parameters
    ----------
    scheduler_ip, nanny
        Addresses, as Dask gives them.
    local_directory
        Where Dask makes the worker's folder, which temporary files go to.
    may_write
        Further folders that may be written to.
    output
        The pipe for what is printed (`node.output`), where there is one.
    """

    def __init__(
        self,
        scheduler_ip: str,
        *args: Any,
        nanny: str,
        local_directory: str,
        may_write: Sequence[Path] = (),
        output: Path | None = None,
        **kwargs: Any,
    ) -> None:
        folders = [Path(local_directory), *may_write]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        _temporary_files_in(local_directory)
        pipes = [output] if output is not None and output.exists() else []
        confine(folders=folders, pipes=pipes, ports=_ports(scheduler_ip, nanny))
        super().__init__(
            scheduler_ip, *args, nanny=nanny, local_directory=local_directory, **kwargs
        )
        # Dask removes this one with the worker, or before the next one starts.
        _temporary_files_in(self.local_directory)


def _temporary_files_in(folder: str) -> None:
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def _ports(*addresses: str) -> Sequence[int]:
    return [get_address_host_port(address)[1] for address in addresses]
