"""How the machine is used: threads, memory, layout, precision."""

import json
import platform
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, only_run
from torch import nn

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.storage.folder import RunFolder
from aetool.system import cgroup, machine
from aetool.system.machine import available_memory, has_bf16, keep_freed_memory, release_memory
from aetool.training import decisions, hardware
from aetool.training.hardware import arrange, available_threads

CPU = torch.device("cpu")
HEAVY = ["dataset=cifar10", "model=conv"]


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes the control groups of this process: the lines of /proc/self/cgroup, and files by their path."""
    monkeypatch.setattr(cgroup, "GROUPS", tmp_path / "own")
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path / "mount")

    def write(lines: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


class TestThreads:
    @pytest.fixture(autouse=True)
    def four_cores(self, monkeypatch, groups):
        monkeypatch.setattr(hardware, "DEFAULT_THREADS", 4)
        monkeypatch.setattr(machine, "processors", lambda: set(range(8)))

    @pytest.mark.parametrize(
        ("quota", "threads"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("800000 100000", 4)]
    )
    def test_no_more_than_a_container_may_use(self, groups, quota, threads):
        groups("0::/\n", {"cpu.max": quota})
        assert available_threads() == threads

    def test_no_more_than_the_groups_around_this_one_may_use(self, groups):
        groups("0::/job/step\n", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"})
        assert available_threads() == 2

    def test_no_more_than_a_group_of_version_1_may_use(self, groups):
        quota, period = "cpu/job/cpu.cfs_quota_us", "cpu/job/cpu.cfs_period_us"
        groups("3:cpuset:/\n2:cpu,cpuacct:/job\n", {quota: "300000", period: "100000", "cpu/cpu.cfs_quota_us": "-1"})
        assert available_threads() == 3

    def test_no_more_than_the_processors_of_the_process(self, monkeypatch):
        monkeypatch.setattr(machine, "processors", lambda: {1, 5})
        assert available_threads() == 2

    def test_torchrun_does_not_hide_the_cores(self, tmp_path, monkeypatch):
        for processor in range(8):
            topology = tmp_path / "cpus" / f"cpu{processor}" / "topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(f"{processor % 6},{processor % 6 + 6}")
        monkeypatch.setattr(machine, "CPUS", tmp_path / "cpus")
        monkeypatch.setattr(hardware, "DEFAULT_THREADS", 1)
        assert available_threads() == 1
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert available_threads() == 6


class TestMemory:
    @pytest.fixture(autouse=True)
    def eight_gigabytes(self, tmp_path, monkeypatch, groups):
        (tmp_path / "meminfo").write_text("MemFree: 1000 kB\nMemAvailable: 8000000 kB\n")
        monkeypatch.setattr(machine, "MEMORY_INFO", tmp_path / "meminfo")

    def test_without_a_limit_it_is_that_of_the_machine(self, groups):
        groups("0::/\n", {"memory.max": "max", "memory.current": "5"})
        assert available_memory() == 8_192_000_000

    @pytest.mark.parametrize(
        ("lines", "files"),
        [
            ("0::/job/step\n", {"job/memory.max": "5000", "job/memory.current": "4000", "job/memory.stat": "anon 7"}),
            ("0::/gone\n", {"memory.max": "5000", "memory.current": "4500", "memory.stat": "inactive_file 500\n"}),
            (
                "4:memory:/job\n0::/\n",
                {
                    "memory/job/memory.limit_in_bytes": "5000",
                    "memory/job/memory.usage_in_bytes": "4900",
                    "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 900\n",
                },
            ),
        ],
    )
    def test_no_more_than_a_container_or_a_batch_job_may_use(self, groups, lines, files):
        groups(lines, files)
        assert available_memory() == 1000

    def test_nothing_is_left_where_a_limit_is_exceeded(self, groups):
        groups("0::/\n", {"memory.max": "5000", "memory.current": "6000", "memory.stat": ""})
        assert available_memory() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_asking_the_system():
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)  # 16,384 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    assert min(faults() for _ in range(10)) < 1000  # the first ones make room
    release_memory()
    assert faults() > 10_000


def test_an_older_c_library_takes_a_smaller_threshold_or_is_left_alone(monkeypatch):
    calls = []

    def library(most):
        def mallopt(parameter, value):
            calls.append((parameter, value))
            return int(parameter != machine.M_MMAP_THRESHOLD or value <= most)

        return lambda name: SimpleNamespace(mallopt=mallopt)

    monkeypatch.setattr(machine.ctypes, "CDLL", library(2**25))
    keep_freed_memory()
    assert (machine.M_TRIM_THRESHOLD, 2**31 - 1) in calls
    calls.clear()
    monkeypatch.setattr(machine.ctypes, "CDLL", library(0))
    keep_freed_memory()
    assert {parameter for parameter, _ in calls} == {machine.M_MMAP_THRESHOLD}


class Own(nn.Module):
    """A network as a user writes it, which knows nothing of layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x).relu())


class TestLayout:
    def test_convolutions_of_any_network_become_channels_last_and_their_outputs_follow(self):
        network, x = Own(), torch.randn(2, 3, 8, 8)
        expected = network(x)
        arrange(network)
        assert network.down.weight.is_contiguous(memory_format=torch.channels_last)
        assert network.down(x).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network(x), expected)

    def test_a_network_without_convolutions_is_left_alone(self):
        network = nn.Module()
        network.atoms = nn.Parameter(torch.randn(4, 3, 2, 2))
        arrange(network)
        assert network.atoms.is_contiguous()


class TestPrecision:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor : 1\n", True),
            ("flags : avx2 amx_bf16", True),
            ("Features : asimd bf16", True),
            ("processor : 0\nflags : avx2 avx512f\n\nflags : avx512_bf16", False),
            ("", False),
        ],
    )
    def test_a_cpu_has_bf16_by_its_instructions(self, tmp_path, monkeypatch, text, expected):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
        assert has_bf16(CPU) is expected

    def test_a_system_that_does_not_tell_has_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "missing")
        assert not has_bf16(CPU)

    @pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
    def test_a_gpu_has_bf16_by_its_generation(self, monkeypatch, capability, expected):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert has_bf16(torch.device("cuda")) is expected

    @pytest.mark.parametrize(
        ("words", "instructions", "expected"),
        [
            (HEAVY, True, "bf16"),
            (HEAVY, False, "fp32"),
            ([], True, "fp32"),  # the default network on digits is too small
            ([*HEAVY, "trainer.batch_size=1"], True, "fp32"),
            ([*HEAVY, "trainer.precision=fp32"], True, "fp32"),
            (["trainer.precision=bf16"], False, "bf16"),
            (["model=pca", "dataset=cifar10", "trainer.batch_size=10000"], True, "fp32"),  # it is not trained
        ],
    )
    def test_auto_is_bf16_where_there_are_instructions_and_work(self, monkeypatch, words, instructions, expected):
        monkeypatch.setattr(decisions, "has_bf16", lambda device: instructions)
        config = compose_one("train", TrainConfig, words).config
        assert decisions.decided(config).trainer.precision == expected

    @pytest.mark.parametrize(
        ("words", "threads"),
        [
            ([], 1),  # the default network on digits: 0.017 GFLOP a batch
            (["trainer.batch_size=128"], 2),
            (HEAVY, 4),
            ([*HEAVY, "threads=3"], 3),
            (["model=pca"], 4),
        ],
    )
    def test_threads_are_as_many_as_have_work(self, monkeypatch, words, threads):
        monkeypatch.setattr(decisions, "available_threads", lambda: 4)
        assert decisions.decided(compose_one("train", TrainConfig, words).config).threads == threads

    def test_a_network_without_counted_work_has_one_thread(self, monkeypatch):
        monkeypatch.setattr(decisions, "work_of", lambda config: (0, 1))
        assert decisions.decided(compose_one("train", TrainConfig, []).config).threads == 1

    def test_the_shape_of_images_is_read_where_the_config_does_not_say(self, workplace, monkeypatch):
        import numpy as np

        images = np.zeros((8, 9, 9), np.uint8)
        np.savez(workplace / "own.npz", train_images=images, test_images=images)
        monkeypatch.setattr(decisions, "has_bf16", lambda device: True)
        words = ["dataset=arrays", f"dataset.path={workplace / 'own.npz'}", "model=dense"]
        assert decisions.decided(compose_one("train", TrainConfig, words).config).trainer.precision == "fp32"

    def test_what_auto_stood_for_identifies_the_run(self, workplace, aetool, monkeypatch):
        monkeypatch.setattr(decisions, "BF16_FLOPS", 0)
        folders = []
        for instructions in (True, False):
            monkeypatch.setattr(decisions, "has_bf16", lambda device, found=instructions: found)
            assert aetool("train", *TINY, "trainer.precision=auto", f"output={instructions}/outputs").code == 0
            folders.append(only_run(workplace / str(instructions)))
        stored = [json.loads((folder / "config.json").read_text())["config"]["trainer"] for folder in folders]
        assert [trainer["precision"] for trainer in stored] == ["bf16", "fp32"]
        assert folders[0].name != folders[1].name

    def test_bf16_without_instructions_warns_with_the_factor(self, workplace, aetool, monkeypatch):
        monkeypatch.setattr(decisions, "has_bf16", lambda device: False)
        monkeypatch.setattr(decisions, "_product_seconds", lambda dtype: 4.2 if dtype == torch.bfloat16 else 0.01)
        done = aetool("train", *TINY, "trainer.precision=bf16")
        assert done.code == 0
        (warning,) = (line for line in RunFolder(only_run(workplace)).status["warnings"] if "bf16" in line)
        assert "takes 420 times as long as in fp32: set trainer.precision=auto" in warning
        assert warning in done.out

    def test_a_cuda_graph_needs_a_cuda_device(self, workplace, aetool):
        done = aetool("train", *TINY, "trainer.cuda_graph=true", "device=cpu")
        assert done.code == 2
        assert "trainer.cuda_graph=true: the device is cpu, not cuda" in done.err
        assert not (workplace / "outputs").exists()

    def test_products_are_timed(self):
        assert 0 < decisions._product_seconds(torch.float32) < 60
