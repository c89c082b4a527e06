"""What is said about the walls around pipelines."""

from __future__ import annotations

import errno

import pytest

from node.config import ComputeSection
from node.confinement import Walls, describe_walls, find_walls


@pytest.mark.parametrize(
    ("version", "said"),
    [(7, "yes"), (4, "yes"), (3, "files only: Landlock holds TCP since Linux 6.7"), (1, "files only")],
)  # fmt: skip
def test_walls_are_what_the_kernel_has(
    monkeypatch: pytest.MonkeyPatch, version: int, said: str
) -> None:
    monkeypatch.setattr("node.confinement.abi_version", lambda: version)

    assert describe_walls(ComputeSection()).startswith(said)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_without_or_a_container_that_hides_it_is_said(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail() -> int:
        raise OSError(number, "no such thing")

    monkeypatch.setattr("node.confinement.abi_version", fail)

    assert describe_walls(ComputeSection()).startswith("no: the kernel has no Landlock")
    assert find_walls() == Walls(files=False, network=False, why=find_walls().why)


def test_what_is_turned_off_or_not_ours_is_said() -> None:
    assert describe_walls(ComputeSection(confine=False)) == "no: [compute] confine = false"
    assert "cluster" in describe_walls(ComputeSection(scheduler="tcp://10.0.0.1:8786"))
