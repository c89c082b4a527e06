"""Walls around the processes that pipelines run in: Landlock, where the kernel has it.

A worker reads files as before. It writes to its own folder, to `/dev` (shared memory, the GPU), to its own `/proc` and
into the pipe for what it prints; it connects to its scheduler and its nanny; it signals nobody but what it started.
All that it starts is held alike, and nothing takes a wall down again (PR_SET_NO_NEW_PRIVS). What the kernel lacks is
left out:

    Linux 5.13  files       6.2  truncation       6.7  TCP       6.12  signals, abstract sockets       later  UDP
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from landlockpy import AccessFS, AccessNet, RestrictFlag, Ruleset, Scope, abi_version

from node.config import ComputeSection

#: What `Ruleset` handles of the network since which version of Landlock's interface.
_TCP_SINCE = 4
#: Reading and starting programs stay as they are; so does ioctl, which is how a GPU is driven.
_WRITING = (
    AccessFS.WRITE_FILE
    | AccessFS.TRUNCATE
    | AccessFS.MAKE_REG
    | AccessFS.MAKE_DIR
    | AccessFS.MAKE_SOCK
    | AccessFS.REMOVE_FILE
    | AccessFS.REMOVE_DIR
    | AccessFS.REFER
)
#: Nowhere: the node reads what workers leave, and shall not be led elsewhere by a link, nor wait at a pipe.
_NEVER = AccessFS.MAKE_SYM | AccessFS.MAKE_FIFO | AccessFS.MAKE_CHAR | AccessFS.MAKE_BLOCK
_NETWORK = (
    AccessNet.BIND_TCP | AccessNet.CONNECT_TCP | AccessNet.BIND_UDP | AccessNet.CONNECT_SEND_UDP
)
#: Shared memory and the GPU; names of threads, what the kernel ends first (node/worker.py).
_OF_THE_SYSTEM = (Path("/dev"), Path("/proc/self"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What this machine can keep pipelines from."""

    files: bool
    network: bool
    #: What is missing, and since when there is it; empty where nothing is.
    why: str = ""

    def __str__(self) -> str:
        if self.files and self.network:
            return "yes"
        return f"{'files only' if self.files else 'no'}: {self.why}"


def find_walls() -> Walls:
    """What the kernel has, as this process sees it."""
    try:
        version = abi_version()
    except OSError as error:
        return Walls(
            files=False,
            network=False,
            why=f"the kernel has no Landlock, or a container's seccomp profile hides it ({error.strerror})",
        )
    if version < _TCP_SINCE:
        return Walls(
            files=True,
            network=False,
            why="Landlock holds TCP since Linux 6.7, this kernel is older",
        )
    return Walls(files=True, network=True)


def describe_walls(section: ComputeSection) -> str:
    """Whether pipelines are kept in, for a person: `yes`, `files only: ...`, `no: ...`."""
    if section.scheduler:
        return "not by this node: [compute] scheduler names a cluster, whose workers others start"
    return str(find_walls()) if section.confine else "no: [compute] confine = false"


def confine(*, folders: Iterable[Path], pipes: Iterable[Path] = (), ports: Iterable[int]) -> None:
    """Hold this process, from now on: called in its main thread, before it has threads that matter.

    Nothing happens where the kernel cannot (`find_walls`). Threads that are there already stay free before Linux has
    LANDLOCK_RESTRICT_SELF_TSYNC.

    Parameters
    ----------
    folders
        Where files may be made, changed and removed; they must be there.
    pipes
        What may be written to outside of them, and not be removed; they must be there.
    ports
        TCP ports that may be connected to, at any address: Landlock knows no addresses.

    Raises
    ------
    OSError
        When the kernel refuses what it says it can.
    """
    if not find_walls().files:
        return
    with Ruleset(
        handled_fs=_WRITING | _NEVER,
        handled_net=_NETWORK,
        scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET,
    ) as rules:
        for folder in (*folders, *filter(Path.exists, _OF_THE_SYSTEM)):
            rules.allow_path(folder, _WRITING)
        for pipe in pipes:
            rules.allow_path(pipe, AccessFS.WRITE_FILE)
        for port in ports:
            rules.allow_port(port, AccessNet.CONNECT_TCP)
        # Port 0: any that the kernel chooses, as Dask lets it.
        rules.allow_port(0, AccessNet.BIND_TCP)
        rules.restrict(RestrictFlag.TSYNC)


def stop_listening() -> None:
    """From now on this thread, and those it starts, open no port at all; what listens already goes on."""
    if not find_walls().network:
        return
    with Ruleset(
        handled_fs=AccessFS.REFER, handled_net=AccessNet.BIND_TCP | AccessNet.BIND_UDP
    ) as rules:
        # Every rule set denies what moves a file to another folder, unless it says otherwise.
        rules.allow_path("/", AccessFS.REFER)
        rules.restrict()
