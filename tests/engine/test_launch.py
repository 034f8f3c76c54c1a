"""Two processes on one CPU: started, in step, ended together."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from lambda_det.backbone import build_lambda_resnet
from lambda_det.commands import lazyconfig_train_net, train_net
from lambda_det.engine import launch as launch_module
from lambda_det.engine.interruption import TrainingInterrupted
from lambda_det.engine.launch import WorkerLostError, cores, launch
from lambda_det.engine.trainer import Trainer
from lambda_det.errors import InputError, is_input_error_of_a_worker, one_line

VARIABLES = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}  # fmt: skip


def small_backbone(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    backbone = build_lambda_resnet(
        26, "lambda", norm="GN", out_features=("res3", "res4", "res5"), scope=7
    ).double()
    # The last norms start at zero, which would leave the blocks without gradients.
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return backbone


def gradients(module: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs = module(images)
    sum(output.square().mean() for output in outputs.values()).backward()
    return {n.removeprefix("module."): p.grad for n, p in module.named_parameters()}


def four_images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 65, 97, generator=generator, dtype=torch.float64)


def half_a_batch(folder: str) -> None:
    rank = comm.get_rank()
    assert comm.get_world_size() == 2 and comm.get_local_rank() == rank
    assert comm.get_local_size() == 2 and dist.get_backend() == "gloo"
    assert torch.get_num_threads() == max(1, cores() // 2)
    # A seed of each process: DDP makes them start from the first one's weights. Every parameter is
    # used, so that find_unused_parameters is not needed.
    ddp = DistributedDataParallel(small_backbone(seed=rank))
    found = gradients(ddp, four_images()[2 * rank : 2 * rank + 2])
    torch.save(found, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_gradients_are_those_of_the_whole_batch(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch(half_a_batch, 2, device="cpu", args=(str(tmp_path),))
    expected = gradients(small_backbone(), four_images())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-12)


def one_dies(folder: str) -> None:
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)  # what waits for the other one in NCCL hears nothing either
    Path(folder, "survived").touch()


@pytest.mark.slow
def test_a_killed_process_ends_the_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(launch_module, "GRACE_S", 2)
    with pytest.raises(WorkerLostError, match=r"^process 1 was killed \(SIGKILL\).*--resume"):
        launch(one_dies, 2, device="cpu", args=(str(tmp_path),))
    assert not (tmp_path / "survived").exists()


def ends_badly(folder: str) -> None:
    atexit.register(os.abort)  # as threads of gloo do to some processes on a busy machine
    print("done", flush=False)
    Path(folder, f"done{comm.get_rank()}").touch()


@pytest.mark.slow
def test_what_ends_after_the_work_is_done_does_not_count(tmp_path, capfd) -> None:
    launch(ends_badly, 2, device="cpu", args=(str(tmp_path),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done0", "done1"]
    assert capfd.readouterr().out.count("done") == 2


def stops_in_good_order() -> None:
    atexit.register(os.abort)
    raise TrainingInterrupted(signal.SIGINT)


@pytest.mark.slow
def test_processes_that_a_signal_has_stopped_keep_their_status() -> None:
    with pytest.raises(SystemExit) as stop:
        launch(stops_in_good_order, 2, device="cpu")
    assert stop.value.code == 130


@pytest.mark.parametrize(
    ("code", "status", "line"),
    [(None, 0, ""), (0, 0, ""), (130, 130, ""), ("no such set", 1, "no such set\n")],
)
def test_a_process_ends_with_the_status_that_python_gives(
    code, status, line, monkeypatch, capsys
) -> None:
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(launch_module.logging, "shutdown", lambda: None)
    launch_module.end_after(lambda: sys.exit(code))
    assert statuses == [status] and capsys.readouterr().err == line


def meets_in(folder: str) -> None:
    store = dist.distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    Path(folder, str(comm.get_rank())).write_text(type(store).__name__)


@pytest.mark.slow
def test_processes_of_a_machine_need_no_port(tmp_path) -> None:
    """One that was free when it was chosen may be another training's a second later."""
    launch(meets_in, 2, device="cpu", args=(str(tmp_path),))
    assert {(tmp_path / str(rank)).read_text() for rank in range(2)} == {"FileStore"}


def one_is_wrong() -> None:
    if comm.get_rank() == 1:  # so that the first one's error is of the lost connection
        raise InputError("KEY=1: expected 2")
    dist.barrier()


def one_is_wrong_and_the_other_aborts() -> None:
    if comm.get_rank() == 1:
        atexit.register(time.sleep, 2)  # so that its error is there before it ends
        raise InputError("KEY=1: expected 2")
    time.sleep(0.5)
    os.abort()  # as PyTorch does in a process that has lost another one


@pytest.mark.slow
def test_an_abort_does_not_hide_the_error_that_came_before() -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        launch(one_is_wrong_and_the_other_aborts, 2, device="cpu")
    assert one_line(caught.value) == "KEY=1: expected 2"


@pytest.mark.parametrize("command", [train_net, lazyconfig_train_net])
def test_runs_of_one_user_have_no_port_in_common(command, monkeypatch) -> None:
    """With detectron2's default, the processes of two runs met each other."""
    seen = []
    monkeypatch.setattr(command, "launch_command", lambda run, args, *rest: seen.append(args))
    words = ["--config-file", "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu", "--num-gpus", "2"]
    command.main([*words, *(("MODEL.DEVICE", "cpu") if command is train_net else ())])
    assert [args.dist_url for args in seen] == ["auto"]


class NanInProcess1(torch.nn.Linear):
    """Its loss is finite in process 0 only."""

    def forward(self, images):
        value = float("nan") if comm.get_rank() == 1 else 1.0
        return super().forward(torch.full((1, 1), value)).sum()


def one_loss_is_not_finite() -> None:
    model = NanInProcess1(1, 1)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EventStorage():
        Trainer(model, [[{"file_name": f"{comm.get_rank()}.png"}]], optimizer).run_step()


@pytest.mark.slow
def test_an_error_of_one_process_is_the_error_of_all() -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        launch(one_is_wrong, 2, device="cpu")
    assert is_input_error_of_a_worker(caught.value)
    assert one_line(caught.value) == "KEY=1: expected 2"


@pytest.mark.slow
def test_a_loss_of_one_process_ends_all_with_one_line(monkeypatch, capsys) -> None:
    with pytest.raises(ProcessRaisedException) as caught:
        launch(one_loss_is_not_finite, 2, device="cpu")
    line = "iteration 0: the loss is not finite (total_loss nan) on 1.png"
    assert one_line(caught.value) == f"FloatingPointError: {line}"

    def fails(*args, **kwargs) -> None:
        raise caught.value

    monkeypatch.setattr("lambda_det.engine.launch.launch", fails)
    assert train_net.main([]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


def test_no_gpu_is_one_process() -> None:
    seen = []
    launch(seen.append, 0, device="cpu", args=(1,))
    assert seen == [1] and not dist.is_initialized()
    with pytest.raises(InputError, match="--num-gpus -1"):
        launch(seen.append, -1, device="cpu", args=(1,))


@pytest.mark.parametrize(("machines", "rank"), [(2, -1), (2, 2), (0, 0)])
def test_a_machine_that_is_not_there(machines, rank) -> None:
    line = rf"^--num-machines {machines}, --machine-rank {rank}: expected"
    with pytest.raises(InputError, match=line):
        launch(print, 1, device="cpu", num_machines=machines, machine_rank=rank)


@pytest.mark.parametrize(("device", "kind"), [("cuda:1", "cuda"), ("cpu:0", "cpu")])
def test_one_device_for_several_processes(device, kind, monkeypatch) -> None:
    line = rf"^MODEL.DEVICE='{device}': is one device for 2 processes; take {kind}"
    with pytest.raises(InputError, match=line):
        launch(print, 2, device=device)
    with pytest.raises(InputError, match=line):
        launch(print, 1, device=device, num_machines=2)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=line):
        launch(print, device=device)


def test_a_share_of_the_cores_that_may_be_used(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch_module._share_cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch_module._share_cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch_module._share_cores(2)
    assert threads == [3]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # then that 1 is torchrun's
    launch_module._share_cores(2)
    assert threads == [3, 3]


@pytest.mark.parametrize(
    ("signals", "status", "line"),
    [([signal.SIGTERM], 143, "stopped by SIGTERM before the first iteration"),
     ([signal.SIGINT], 130, "stopped by SIGINT before the first iteration"),
     ([], 1, "process 0 was killed")],
)  # fmt: skip
def test_a_signal_before_the_training_can_hear_it(signals, status, line) -> None:
    read, write = os.pipe()
    os.close(write)  # as that of a process which has ended
    ended = [SimpleNamespace(exitcode=-signal.SIGTERM, sentinel=read)]
    try:
        with pytest.raises(WorkerLostError, match=line) as lost:
            launch_module._wait(SimpleNamespace(processes=ended), signals)
    finally:
        os.close(read)
    assert lost.value.status == status


def test_one_of_torchrun(monkeypatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(opened.getsockname()[1]))
    threads, seen = torch.get_num_threads(), []
    try:
        launch(lambda: seen.append((dist.get_backend(), comm.get_local_rank())), device="cpu")
    finally:
        torch.set_num_threads(threads)
        comm._LOCAL_PROCESS_GROUP = None
    assert seen == [("gloo", 0)] and not dist.is_initialized()
    with pytest.raises(InputError, match=r"--num-gpus 2.*torchrun has started"):
        launch(seen.append, 2, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_more_processes_than_gpus() -> None:
    with pytest.raises(InputError, match=r"--num-gpus 2: PyTorch sees 0 GPUs here; MODEL"):
        launch(print, 2)
