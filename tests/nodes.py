"""A real node: `osteonode serve` in its own process, on a free port, under a temporary folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from storage.index import Index, destinations, open_index, rules, workitems
from storage.model import WAIT_S, Destination, Rule, Workitem, WorkitemState

PIPELINES = Path(__file__).parent / "pipelines"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Poll until `condition` is true; AssertionError naming `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}")
        time.sleep(0.05)


@dataclass(kw_only=True)
class Node:
    """One installation; `start` and `kill` as often as a test likes."""

    folder: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def database_url(self) -> str:
        return self.settings.get(
            "OSTEONODE_STORAGE__DATABASE", f"sqlite:///{self.folder / 'data' / 'index.sqlite'}"
        )

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text(encoding="utf-8")

    def write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f"""
            [node]
            host = "127.0.0.1"
            port = {self.port}
            [routing]
            quiet_s = 1.0
            [pipelines]
            folders = ["{PIPELINES}"]
            [compute]
            retry_s = 0.2
            [delivery]
            backoff_s = 0.5
            backoff_max_s = 1.0
            timeout_s = 5.0
            [disk]
            low_mb = 0
            full_mb = 0
            """,
            encoding="utf-8",
        )

    def start(self) -> None:
        """Start the process and wait until the port answers."""
        self.write_config()
        with (self.folder / "node.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "--config", str(self.config), "serve"],
                env={**os.environ, **self.settings},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(f"the node's port\n{self.log}", self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def run_until_it_ends(self) -> int:
        """Start a process that is expected to give up; its exit code."""
        with (self.folder / "node.log").open("ab") as out:
            return subprocess.run(
                [sys.executable, "-m", "node.cli", "--config", str(self.config), "serve"],
                env={**os.environ, **self.settings},
                stdout=out,
                stderr=out,
                timeout=30,
                check=False,
            ).returncode

    def kill_if_running(self) -> None:
        """The end of a test."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """As the power going: nothing is finished."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As `systemctl stop`: what is under way ends."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        # Workers that are just starting are waited for.
        return self.process.wait(timeout=60)

    @contextmanager
    def index(self) -> Iterator[Index]:
        """The node's database, from this process."""
        opened = open_index(self.database_url)
        try:
            yield opened
        finally:
            opened.close()

    def route_to(
        self,
        port: int,
        *,
        pipeline: str = "threshold_bone",
        name: str = "PACS",
        called_ae: str = "PACS",
        profile: str = "generic",
        report_refusals: bool = False,
        wait_s: int = WAIT_S,
    ) -> None:
        """A destination on `port`, and a rule that sends what is made of every CT there."""
        with self.index() as index:
            destinations.add(
                index,
                Destination(
                    name=name, host="127.0.0.1", port=port, called_ae=called_ae, profile=profile
                ),
                actor="test",
            )
            rules.add(
                index,
                Rule(
                    name=f"{pipeline}-{name}",
                    pipeline=pipeline,
                    where=("Modality = CT",),
                    destinations=(name,),
                    report_refusals=report_refusals,
                    wait_s=wait_s,
                    each=True,
                ),
                actor="test",
            )

    def workitems(self) -> tuple[Workitem, ...]:
        with self.index() as index:
            return workitems.list_workitems(index, limit=1000)

    def wait_for_state(self, state: WorkitemState, count: int = 1, timeout_s: float = 60.0) -> None:
        """Until `count` workitems are in `state`."""
        wait_for(
            f"{count} workitems {state}; there are {[(w.state, w.reason) for w in self.workitems()]}",
            lambda: sum(w.state == state for w in self.workitems()) >= count,
            timeout_s,
        )
