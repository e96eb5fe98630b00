"""Signals and deaths among the processes of one run, started by Lightning and by torchrun."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import REPOSITORY, arguments, environment, load, start, write_corpus

TIMEOUT = 240  # seconds until a process counts as stuck
pytestmark = pytest.mark.slow
LONG = {"trainer__max_steps": 1_000_000, "trainer__val_check_interval": 1_000_000}
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "stuck"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes of Python that a process has started and that run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if is_running(int(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(params=["lightning", "torchrun"])
def launcher(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(launcher: str, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run of two processes that has made its first checkpoint."""
    corpus = write_corpus(tmp_path / "corpus")
    settings = [*arguments(corpus, **LONG), *TWO]
    if launcher == "lightning":
        process = start(tmp_path, *settings)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        process = subprocess.Popen(
            [*command, "--nproc-per-node=2", str(REPOSITORY / "train.py"), *settings],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    last = tmp_path / "runs/default/checkpoints/last.ckpt"
    try:
        wait_until(lambda: last.is_file() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ranks(run: "subprocess.Popen[str]", launcher: str) -> list[int]:
    """The processes that train."""
    return [run.pid, *children(run.pid)][:2] if launcher == "lightning" else children(run.pid)[:2]


@pytest.mark.parametrize("told", ["the launcher", "the second process"])
def test_sigterm_saves_once_and_ends_all_processes(
    run: "subprocess.Popen[str]", launcher: str, told: str, tmp_path: Path
) -> None:
    both = ranks(run, launcher)
    os.kill(run.pid if told == "the launcher" else both[1], signal.SIGTERM)
    text = run.communicate(timeout=TIMEOUT)[0]
    if launcher == "lightning":
        assert run.returncode == 128 + signal.SIGTERM, text
        assert "Traceback" not in text, text
    else:  # torchrun reports with a traceback and a status of its own
        assert run.returncode != 0
    assert text.count("Stopped after step") == 1 and "Resume with: python train.py" in text
    step = int(text.split("Stopped after step ")[1].split(".")[0])
    assert load(tmp_path / "runs/default/checkpoints/last.ckpt")["global_step"] == step
    wait_until(lambda: not any(map(is_running, both)))


@pytest.mark.parametrize("rank", [0, 1])
def test_no_process_outlives_one_that_was_killed(
    run: "subprocess.Popen[str]", launcher: str, rank: int
) -> None:
    both = ranks(run, launcher)
    assert len(both) == 2 and all(map(is_running, both))
    os.kill(both[rank], signal.SIGKILL)
    assert run.wait(timeout=TIMEOUT) != 0
    wait_until(lambda: not any(map(is_running, both)))
