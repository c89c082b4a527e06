"""TLS by the command line: what `config check` says, the health check, destinations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from certificates import Authority
from dicomgen import make_instance, save
from listeners import listening

ROOT = Path(__file__).parents[2]


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", "--config", str(config), *arguments],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_node_is_asked_and_checked_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    # Its name is not that of the loopback address: the health check knows it by its certificate.
    files = authority.sign("node.example.org")
    tls: dict[str, object] = {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "authorities": str(authority.file),
        "only": True,
    }
    config = tmp_path / "config.toml"
    with listening(tmp_path, tls=tls) as running:
        # Relative to the file.
        config.write_text(
            f"""
            [node]
            host = "127.0.0.1"
            [delivery]
            timeout_s = 5
            [tls]
            certificate = "tls/node.example.org.crt"
            key = "tls/node.example.org.key"
            authorities = "tls/hospital.ca.crt"
            port = {running.tls_port}
            only = true
            """,
            encoding="utf-8",
        )
        checked = run(config, "config", "check")
        assert checked.returncode == 0, checked.stderr
        assert f"TLS        port {running.tls_port}, certificate valid until 20" in checked.stdout
        echoed = run(config, "echo")
        assert echoed.returncode == 0, echoed.stderr
        peer = f"127.0.0.1:{running.tls_port}"
        # To others than itself the name counts.
        other = run(config, "echo", "--tls", "--to", peer, "--called", "OSTEONODE")
        assert other.returncode == 5
        assert "TLS: certificate not accepted: IP address mismatch" in other.stderr
        assert len(other.stderr.splitlines()) == 1
        plain = run(config, "echo", "--to", peer, "--called", "OSTEONODE")
        assert plain.returncode == 5
        file = save(make_instance(), tmp_path / "in")
        sent = run(config, "send", str(file), "--tls", "--to", peer, "--called", "OSTEONODE")
        assert sent.returncode == 5
        assert "IP address mismatch" in sent.stderr


def test_config_check_names_a_certificate_that_is_over(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.sign("node", days=-1)
    config = tmp_path / "config.toml"
    config.write_text(
        '[tls]\ncertificate = "node.crt"\nkey = "node.key"\nmutual = false\n', encoding="utf-8"
    )
    checked = run(config, "config", "check")
    assert checked.returncode == 3
    assert f"{tmp_path / 'node.crt'} has expired" in checked.stderr


def test_a_destination_is_kept_with_its_tls(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("", encoding="utf-8")
    assert run(config, "db", "upgrade").returncode == 0
    options = ("--host", "127.0.0.1", "--called", "PACS")
    for name, more in (("SAFE", ("--tls",)), ("PLAIN", ())):
        assert run(config, "destinations", "add", name, *options, *more).returncode == 0
    listed = json.loads(run(config, "destinations", "list", "--json").stdout)
    assert {one["name"]: one["tls"] for one in listed} == {"SAFE": True, "PLAIN": False}
