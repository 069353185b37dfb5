"""What this process may use: processors, memory, quotas of containers; and how its threads wait."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from charlm import machine
from charlm.machine import LoadMeter, count_processors, read_memory_bytes

QUOTA = {"cpu.cfs_quota_us": "{quota}", "cpu.cfs_period_us": "100000"}


def make_root(tmp_path: Path, cgroup: str, files: dict[str, str]) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.fixture
def sixteen_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_affinity", lambda: list(range(16)))


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),  # half a processor is one thread
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),  # a fourth thread would be stopped half of the time
        ("0::/\n", {"cpu.max": "garbage"}, 16),
        ("0::/user/job\n", {"user/cpu.max": "400000 100000", "user/job/cpu.max": "max 100000"}, 4),
        ("0::/user/job\n", {"user/cpu.max": "400000 100000", "user/job/cpu.max": "300000 100000"}, 3),
        ("0::/host/path/unknown/here\n", {"cpu.max": "500000 100000"}, 5),
        ("4:cpu,cpuacct:/docker/x\n", {f"cpu,cpuacct/{n}": v.format(quota=600000) for n, v in QUOTA.items()}, 6),
        ("4:cpu,cpuacct:/docker/x\n", {f"cpu/docker/x/{n}": v.format(quota=700000) for n, v in QUOTA.items()}, 7),
        ("4:cpu:/\n", {f"cpu/{n}": v.format(quota=-1) for n, v in QUOTA.items()}, 16),
        ("4:memory:/\n", {f"memory/{n}": v.format(quota=100000) for n, v in QUOTA.items()}, 16),
        ("nonsense\n", {}, 16),
    ],
)
@pytest.mark.usefixtures("sixteen_processors")
def test_processor_count_respects_container_quota(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert count_processors(make_root(tmp_path, cgroup, files)) == expected


def test_processor_count_respects_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert count_processors(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_training_threads_respect_affinity() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from charlm.model.device import configure_torch; import torch;"
        "configure_torch(0); print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert process.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/a\n", {"a/memory.max": "1000000\n"}),
        ("0::/a\n", {"memory.max": "1000000\n", "a/memory.max": "max\n"}),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": "1000000\n"}),
    ],
)
def test_memory_respects_container_limit(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    assert read_memory_bytes(make_root(tmp_path, cgroup, files)) == 1_000_000


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_memory_without_limit_is_machine_memory(tmp_path: Path, limit: str) -> None:
    files = {"memory/memory.limit_in_bytes": limit, "memory.max": limit}
    assert read_memory_bytes(make_root(tmp_path, "5:memory:/\n0::/\n", files)) == psutil.virtual_memory().total


def test_system_without_control_groups(tmp_path: Path) -> None:
    assert count_processors(tmp_path) >= 1
    assert read_memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_load_meter_excludes_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 100.0, "ours": 5.0, "user": 50.0, "nice": 0.0}
    times = psutil.cpu_times()
    monkeypatch.setattr(machine, "_affinity", lambda: [0, 1])
    monkeypatch.setattr(time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(time, "process_time", lambda: clock["ours"])
    busy = dict.fromkeys(times._fields, 0.0)
    monkeypatch.setattr(
        psutil,
        "cpu_times",
        lambda percpu: [
            times._replace(**{**busy, "user": clock["user"], "nice": clock["nice"]}),
            times._replace(**busy),
        ],
    )
    meter = LoadMeter()
    clock.update(
        wall=110.0, ours=20.0, user=74.0, nice=8.0
    )  # 24 s busy, 15 of them ours; 8 s of a program that gives way
    assert meter.seconds == 10
    assert meter.read() == pytest.approx(0.9)
    meter.restart()
    assert meter.read() == 0


def test_thread_waits_are_set_before_torch_import() -> None:
    program = "import charlm.machine as m, os; m.shorten_thread_waits(); print(os.environ.get('GOMP_SPINCOUNT'))"

    def run(program: str, **variables: str) -> str:
        environment = {n: v for n, v in os.environ.items() if n not in machine.WAIT_VARIABLES} | variables
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        return process.stdout.strip()

    assert run(program) == str(machine.SPIN_COUNT)
    assert run(program, GOMP_SPINCOUNT="7") == "7"
    assert run(program, OMP_WAIT_POLICY="active") == "None"
    assert run("import sys; sys.modules['torch'] = None;" + program) == "None"
    assert run("import charlm, os; charlm.load; print(os.environ['GOMP_SPINCOUNT'])") == str(machine.SPIN_COUNT)
