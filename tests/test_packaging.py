"""What is installed is what is in the tree, on a machine and in the container alike."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("node", "pipelines", "storage", "migrations")


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads(_read("pyproject.toml"))["project"]
    return project


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def _installs(text: str) -> list[str]:
    """What each `pip install` of a Makefile or Dockerfile installs, in order."""
    return re.findall(r"python -m pip install --quiet (?:-e )?'([^']+)'", text)


def test_makefile_and_dockerfile_install_alike(project: dict[str, object]) -> None:
    (torch,) = [name for name in project["dependencies"] if name.startswith("torch==")]  # type: ignore[attr-defined]
    assert _installs(_read("Makefile")) == [torch, ".[dev]"]
    assert _installs(_read("Dockerfile")) == [torch, "."]
    # No other way in: every pip call is one of those compared above.
    for name, count in (("Makefile", 2), ("Dockerfile", 2)):
        assert len(re.findall(r"\bpip3? install\b", _read(name))) == count, name


def test_both_make_a_virtual_environment_of_the_python_declared(project: dict[str, object]) -> None:
    minimum = str(project["requires-python"]).removeprefix(">=")
    assert f"command -v python{minimum}" in _read("Makefile")
    assert f"FROM python:{minimum}-slim" in _read("Dockerfile")
    assert "-m venv" in _read("Makefile")
    assert "-m venv" in _read("Dockerfile")


def test_the_container_gets_all_that_a_wheel_needs() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", _read("Dockerfile"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == {*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "NOTICE"}
    allowed = set(re.findall(r"^!(\S+)$", _read(".dockerignore"), re.MULTILINE))
    assert copied == allowed


def test_the_container_is_unprivileged_and_keeps_its_data() -> None:
    instructions = dict(
        line.split(" ", 1)
        for line in _read("Dockerfile").splitlines()
        if re.match(r"[A-Z]+ ", line)
    )
    assert instructions["USER"] == "10001:10001"
    assert instructions["VOLUME"] == "/data"
    assert instructions["EXPOSE"] == "11112 2762"
    assert instructions["ENV"] == "OSTEONODE_NODE__DATA=/data"
    assert instructions["ENTRYPOINT"] == '["osteonode"]'


def test_the_makefile_installs_the_peers_that_tests_ask_for() -> None:
    (peers,) = re.findall(r"^PEERS := (.+)$", _read("Makefile"), re.MULTILINE)
    assert set(peers.split()) == set(conftest.PEERS)


def test_the_wheel_holds_the_packages_and_their_data(wheel: set[str]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert {name.partition("/")[0] for name in tracked} == set(PACKAGES)
    assert set(tracked) <= wheel
    for folder in (path.parent for path in (ROOT / "pipelines").glob("*/pipeline.toml")):
        manifest = tomllib.loads((folder / "pipeline.toml").read_text(encoding="utf-8"))
        expected = {"pipeline.toml", "pipeline.py", "README.md"}
        if "weights" in manifest:
            expected.add(manifest["weights"]["file"])
        assert {f"pipelines/{folder.name}/{name}" for name in expected} <= wheel
    assert any(name.endswith("licenses/NOTICE") for name in wheel)
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.startswith("osteonode-")} == set(PACKAGES)


def test_no_other_distribution_installs_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"osteonode"}, package


def test_the_command_is_installed() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="osteonode")
    assert script.value == "node.cli:main"


@pytest.mark.parametrize("script", [".ci/run", ".ci/peers"])
def test_scripts_are_executable_bash(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_ci_requires_its_peers() -> None:
    assert "--require-peers" in _read(".ci/run")
    assert "make test" in _read(".ci/run")


def test_a_missing_peer_skips_by_name_and_fails_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(conftest.PEERS, "dcmtk", "/nowhere/storescu")

    def setup(peer: str, *, required: bool) -> None:
        item = SimpleNamespace(
            nodeid="test",
            iter_markers=lambda name: [pytest.mark.peer(peer).mark],
            config=SimpleNamespace(getoption=lambda name: required),
        )
        conftest.pytest_runtest_setup(item)

    with pytest.raises(pytest.skip.Exception, match="dcmtk is not installed"):
        setup("dcmtk", required=False)
    with pytest.raises(pytest.fail.Exception, match="dcmtk is not installed"):
        setup("dcmtk", required=True)
    with pytest.raises(pytest.UsageError, match="no such peer: 'dcmtkk'"):
        setup("dcmtkk", required=False)


def test_the_unit_keeps_the_service_in() -> None:
    """What docs/security.md says of the machine; `systemd-analyze security` counts these."""
    lines = _read("packaging/osteonode.service").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    for name in (
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateUsers",
        "ProtectHome",
        "RestrictSUIDSGID",
    ):
        assert settings[name] == "true", name
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["ProtectSystem"] == "strict"
    assert settings["User"] == "osteonode"
    # A worker that is killed is no reason to stop the node.
    assert settings["OOMPolicy"] == "continue"
