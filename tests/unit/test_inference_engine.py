"""A network ready to run: OpenVINO where it is installed and agrees with torch, else torch."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from monai.networks.nets.vnet import VNet
from structlog.testing import capture_logs
from torch import nn

from pipelines.errors import PipelineError
from pipelines.inference import Engine, compile_network, engine_of
from pipelines.inference import openvino as extra
from pipelines.inference.engine import Backend
from pipelines.networks.unet2d import UNet2d

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="openvino is not installed (pip install 'osteonode[cpu]')"
)
SLICES = ((1, 1, 32, 48), (2, 1, 64, 32))


def _unet() -> nn.Module:
    torch.manual_seed(1)
    return UNet2d((8, 8, 16, 16)).eval()


class KeepsSize(nn.Module):
    """What tracing gets wrong: a size of the first input kept for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image) / int(image.shape[-1])


class Unsupported(nn.Module):
    """What OpenVINO cannot convert."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.layer(image)
        return torch.linalg.eigvals(image @ image.transpose(-1, -2)).real[..., None] * image


@needs_openvino
@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_says_what_torch_says(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = _unet()
        engine = compile_network(network, "cpu", SLICES)
    finally:
        torch.set_num_threads(before)
    assert engine.backend is Backend.OPENVINO
    image = torch.rand(3, 1, 80, 48) * 2 - 1
    with torch.inference_mode():
        expected = network(image)
    torch.testing.assert_close(engine(image), expected, atol=1e-3, rtol=1e-3)


@needs_openvino
def test_networks_of_volumes_run_on_it() -> None:
    torch.manual_seed(1)
    network = VNet(spatial_dims=3, in_channels=1, out_channels=2, act=("relu", {"inplace": True}))
    engine = compile_network(network, "cpu", [(1, 1, 16, 32, 16)])
    assert engine.backend is Backend.OPENVINO
    image = torch.rand(2, 1, 32, 16, 16)
    with torch.inference_mode():
        expected = network(image)
    torch.testing.assert_close(engine(image), expected, atol=1e-3, rtol=1e-3)


@needs_openvino
def test_a_network_on_which_both_disagree_stays_with_torch_and_the_log_says_so() -> None:
    network = KeepsSize().eval()
    with capture_logs() as logs:
        engine = compile_network(network, "cpu", SLICES)
    assert engine.backend is Backend.TORCH
    (line,) = logs
    assert line["event"] == "openvino_not_used"
    assert line["log_level"] == "warning"
    assert line["network"] == "KeepsSize"
    assert "differ" in line["reason"]
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(engine(image), network(image))


@needs_openvino
def test_a_network_that_it_cannot_convert_stays_with_torch_and_the_log_says_so() -> None:
    with capture_logs() as logs:
        engine = compile_network(Unsupported(), "cpu", [(1, 1, 8, 8)])
    assert engine.backend is Backend.TORCH
    assert [line["event"] for line in logs] == ["openvino_not_used"]


@needs_openvino
def test_its_telemetry_is_never_loaded() -> None:
    code = (
        "import sys, torch; from pipelines.inference import compile_network;"
        "print(compile_network(torch.nn.Conv2d(1, 1, 1), 'cpu', [(1, 1, 4, 4)]).backend,"
        "'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["openvino", "False"]


@needs_openvino
def test_networks_that_are_freed_leave_the_process_able_to_take_a_signal() -> None:
    """OpenVINO gives each plugin's main thread a stack for signals, and takes it away when that plugin goes."""
    code = (
        "import faulthandler, os, signal, torch; from pipelines.inference import compile_network;"
        "faulthandler.enable(); signal.signal(signal.SIGUSR1, lambda *_: print('taken'));"
        "make = lambda: compile_network(torch.nn.Conv2d(1, 1, 1), 'cpu', [(1, 1, 4, 4)]);"
        "first = make(); second = make(); del first; del second;"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n")


def test_without_the_extra_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python says that a package is missing.
    monkeypatch.setitem(sys.modules, "openvino", None)
    network = _unet()
    with capture_logs() as logs:
        engine = compile_network(network, "cpu", SLICES)
    assert engine.backend is Backend.TORCH
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(engine(image), network(image))
    assert not extra.is_installed()
    assert not logs


def test_an_installation_that_does_not_load_is_said_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    with capture_logs() as logs:
        engine = compile_network(_unet(), "cpu", SLICES)
    assert engine.backend is Backend.TORCH
    assert "libtbb.so.12 is missing" in logs[0]["reason"]


def test_a_module_is_taken_as_it_is_and_an_engine_too() -> None:
    network = _unet()
    engine = engine_of(network)
    assert isinstance(engine, Engine)
    assert engine.device == torch.device("cpu")
    assert engine_of(engine) is engine
    logits = engine(torch.rand(1, 1, 32, 32))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


def test_an_answer_that_is_no_number_is_an_error_and_not_nothing() -> None:
    network = nn.BatchNorm2d(2)
    network.running_var = torch.tensor([1.0, torch.nan])
    with pytest.raises(PipelineError, match="weights") as raised:
        engine_of(network.eval())(torch.ones(1, 2, 4, 4))
    assert raised.value.code == "network-not-finite"
