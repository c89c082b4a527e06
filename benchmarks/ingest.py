"""How fast instances come in, durable and indexed, beside Orthanc and DCMTK's storescp.

    python benchmarks/ingest.py [--instances 1000] [--rounds 3] [--folder DISK] [--json FILE]

Each round, each receiver in turn (the order changes from round to round) gets the same CT instances of 512 x 512 from
DCMTK's storescu: in one association, then in four at once; and storescp gets them from storescu and from us. Figures
are medians; on a busy machine the ratios count. All have TCP_NODELAY=1 (Debian's DCMTK and Orthanc crawl without it).

Then the node alone: 64 associations at once, and a multi-frame image of two gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from node.scu import send_paths
from storage.model import Destination

ROOT = Path(__file__).resolve().parent.parent
STORESCU, STORESCP, ORTHANC = "/usr/bin/storescu", "/usr/bin/storescp", "/usr/sbin/Orthanc"
PDU = "131072"
SERIES = 10
#: Associations -> instances a second, Orthanc's being 1.
WANTED = {1: 1.6, 4: 1.4}
LARGE = 2_000_000_000
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One receiver's median over the rounds."""

    receiver: str
    associations: int
    instances_per_s: float
    to_orthanc: float
    to_storescp: float
    rss_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """How to start one: command by (folder, port), and how many instances it holds."""

    name: str
    command: Callable[[Path, int], list[str]]
    count: Callable[[Path], int]


def main() -> int:
    """Run, print the table; exit status 1 when the node is not as much faster than Orthanc as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="Where to work: the disk that is measured.")
    options = parser.parse_args()
    missing = [path for path in (STORESCU, STORESCP, ORTHANC) if not Path(path).exists()]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (apt-get install dcmtk orthanc)")
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.folder) as folder:
        work = Path(folder)
        print(f"generating {options.instances} instances ...", flush=True)
        generate(work / "in", options.instances)
        figures = measure(work, options.instances, options.rounds)
        show(figures)
        sending = measure_sending(work, options.instances, options.rounds)
        print(f"sending to storescp: {sending:.2f} of storescu's time")
        for what, rss in (("64 associations", run_many(work)), ("2 GB image", run_large(work))):
            print(f"{what}: all taken, peak {rss:.0f} MB resident")
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2))
    ours = [figure for figure in figures if figure.receiver == "osteonode"]
    return 1 if any(one.to_orthanc < WANTED[one.associations] for one in ours) else 0


def generate(folder: Path, count: int) -> None:
    """CT instances of 526 KB in four folders, one per association; ten series, one study."""
    pixels = np.random.default_rng(1).integers(-1000, 1000, (512, 512), dtype=np.int16)
    study = generate_uid()
    series = [generate_uid() for _ in range(SERIES)]
    for number in range(count):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series[number % SERIES]
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "A^B", "1", "", ""
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260101", "120000", "1", "1"
        ds.Modality, ds.Manufacturer, ds.SeriesDescription = "CT", "Benchmark", "Series"
        ds.SeriesNumber, ds.InstanceNumber = number % SERIES + 1, number // SERIES + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = [0, 0, number // SERIES]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
        ds.SliceThickness, ds.KVP, ds.RescaleSlope, ds.RescaleIntercept = 1, 120, 1, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        # Another content each time: Orthanc would not store the same pixels twice.
        ds.PixelData = np.roll(pixels, number).tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        part = folder / str(number % 4)
        part.mkdir(parents=True, exist_ok=True)
        ds.save_as(part / f"{number}.dcm", enforce_file_format=True)


def measure(work: Path, count: int, rounds: int) -> list[Figure]:
    """Interleaved rounds; a fresh process and empty folders each time."""
    receivers = [
        Receiver(name="osteonode", command=_node, count=_count_node),
        Receiver(name="orthanc", command=_orthanc, count=_count_orthanc),
        Receiver(name="storescp", command=_storescp, count=_count_storescp),
    ]
    rates: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], float] = {}
    for turn in range(rounds):
        for receiver in receivers[turn % 3 :] + receivers[: turn % 3]:
            for associations in (1, 4):
                key = receiver.name, associations
                seconds, rss = _run(receiver, work, associations, count)
                rates.setdefault(key, []).append(count / seconds)
                memory[key] = max(rss, memory.get(key, 0.0))
                print(
                    f"round {turn + 1}: {receiver.name:9} x{associations} {count / seconds:7.1f}/s"
                )
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        Figure(
            receiver=name,
            associations=associations,
            instances_per_s=round(rate, 1),
            to_orthanc=round(rate / medians["orthanc", associations], 2),
            to_storescp=round(rate / medians["storescp", associations], 2),
            rss_mb=round(memory[name, associations]),
        )
        for (name, associations), rate in sorted(medians.items(), key=lambda item: item[0][1])
    ]


def show(figures: list[Figure]) -> None:
    """The table."""
    print(
        f"\n{'receiver':10} {'assoc.':>6} {'inst./s':>8} {'/Orthanc':>9} {'/storescp':>9} {'RSS MB':>7}"
    )
    for f in figures:
        print(
            f"{f.receiver:10} {f.associations:6} {f.instances_per_s:8.1f} "
            f"{f.to_orthanc:9.2f} {f.to_storescp:9.2f} {f.rss_mb:7.0f}"
        )


def measure_sending(work: Path, count: int, rounds: int) -> float:
    """Seconds that we take to send all to storescp in one association, storescu's being 1."""
    destination = Destination(name="S", host="127.0.0.1", port=_free_port(), called_ae="RECEIVER")
    receiver = Receiver(name="storescp", command=_storescp, count=_count_storescp)
    paths = sorted((work / "in").rglob("*.dcm"))
    seconds: dict[str, list[float]] = {"storescu": [], "osteonode": []}
    for sender, taken in seconds.items():
        for _ in range(rounds):
            folder = _new_folder(work)
            with _started(receiver.command(folder, destination.port), folder, destination.port):
                began = time.perf_counter()
                if sender == "storescu":
                    _send_all([[str(work / "in")]], destination.port)
                else:
                    sent = list(send_paths(destination, paths, calling_ae="B", timeout_s=30))
                    if not all(one.status and one.status.status == 0 for one in sent):
                        raise SystemExit("storescp did not take all that we sent")
                taken.append(time.perf_counter() - began)
            if receiver.count(folder) != count:
                raise SystemExit(f"storescp holds not all that {sender} sent")
    return statistics.median(seconds["osteonode"]) / statistics.median(seconds["storescu"])


def run_many(work: Path) -> float:
    """64 associations at once; the node's peak in megabytes. Ends the program when an instance is refused or lost."""
    paths = sorted((work / "in").rglob("*.dcm"))
    shares = [[str(path) for path in paths[n::64]] for n in range(64)]
    return _run_node(work, [share for share in shares if share], len(paths))


def run_large(work: Path) -> float:
    """One image of two gigabytes, most of it a hole in its file; the node's peak in megabytes."""
    ds = dcmread(next((work / "in").rglob("*.dcm")))
    ds.SOPInstanceUID = generate_uid()
    ds.NumberOfFrames = LARGE // (512 * 512 * 2)
    ds.PixelData = b""
    path = work / "large.dcm"
    ds.save_as(path, enforce_file_format=True)
    with path.open("r+b") as file:
        # PS3.5 7.1.2: the last element's length, in Explicit VR with four bytes.
        file.seek(-4, 2)
        file.write(LARGE.to_bytes(4, "little"))
        file.truncate(file.tell() + LARGE)
    return _run_node(work, [[str(path)]], 1)


def _run_node(work: Path, shares: list[list[str]], count: int) -> float:
    folder, port = _new_folder(work), _free_port()
    with _started(_node(folder, port), folder, port) as process:
        _send_all(shares, port)
        rss = _peak_rss(process.pid)
    if _count_node(folder) != count:
        raise SystemExit("the node does not hold all that it took")
    return rss


def _send_all(shares: list[list[str]], port: int) -> None:
    command = [STORESCU, "-aec", "RECEIVER", "-pdu", PDU, "+sd", "+r", "127.0.0.1", str(port)]
    senders = [subprocess.Popen([*command, *share], env=ENVIRONMENT) for share in shares]
    if any([sender.wait() for sender in senders]):
        raise SystemExit("storescu failed")


def _new_folder(work: Path) -> Path:
    """One for each run: files that are deleted meanwhile slow down whoever comes next (blocks to discard, inodes)."""
    return Path(tempfile.mkdtemp(prefix="run-", dir=work))


def _run(receiver: Receiver, work: Path, associations: int, count: int) -> tuple[float, float]:
    """Seconds for all instances, and the receiver's peak resident megabytes."""
    folder, port = _new_folder(work), _free_port()
    with _started(receiver.command(folder, port), folder, port) as process:
        began = time.perf_counter()
        sources = [str(work / "in" / str(part)) for part in range(4)]
        shares = [sources] if associations == 1 else [[source] for source in sources]
        _send_all(shares, port)
        seconds = time.perf_counter() - began
        rss = _peak_rss(process.pid)
    held = receiver.count(folder)
    if held != count:
        raise SystemExit(f"{receiver.name} holds {held} of {count} instances")
    return seconds, rss


@contextmanager
def _started(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(port, process, folder / "log")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.5)
                return
        time.sleep(0.1)
    raise SystemExit(f"the receiver did not start:\n{log.read_text(errors='replace')}")


def _peak_rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the receivers ------------------------------------------------------------------------------


def _node(folder: Path, port: int) -> list[str]:
    (folder / "config.toml").write_text(
        f'[node]\nae_title = "RECEIVER"\nhost = "127.0.0.1"\nport = {port}\ndata = "{folder}/data"\n'
    )
    return [sys.executable, "-m", "node.cli", "--config", str(folder / "config.toml"), "serve"]


def _count_node(folder: Path) -> int:
    from sqlalchemy import create_engine, text

    files = sum(1 for _ in (folder / "data" / "archive").rglob("*.dcm"))
    with create_engine(f"sqlite:///{folder / 'data' / 'index.sqlite'}").connect() as connection:
        rows = connection.scalar(text("SELECT count(*) FROM instances"))
    return files if files == rows else -1


def _orthanc(folder: Path, port: int) -> list[str]:
    settings = {
        "Name": "Benchmark",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "RECEIVER",
        "DicomPort": port,
        "HttpServerEnabled": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [ORTHANC, str(folder / "orthanc.json")]


def _count_orthanc(folder: Path) -> int:
    # Each instance is its file and a JSON of its header in 1.10's default; the pixels are one file of half a megabyte.
    files = (folder / "storage").glob("*/*/*")
    return sum(1 for file in files if file.is_file() and 520_000 < file.stat().st_size < 600_000)


def _storescp(folder: Path, port: int) -> list[str]:
    (folder / "out").mkdir()
    # --fork: four associations at once need it, one is not slower.
    return [STORESCP, "--fork", "-pdu", PDU, "-od", str(folder / "out"), str(port)]


def _count_storescp(folder: Path) -> int:
    return sum(1 for _ in (folder / "out").iterdir())


if __name__ == "__main__":
    sys.exit(main())
