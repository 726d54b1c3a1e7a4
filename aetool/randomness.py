"""Randomness as a pure function of the seed and named counters, so that no random state has to be saved."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A separate 63-bit seed for every purpose and counter (an epoch, a step)."""
    text = ":".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive(seed, purpose, *counters))


def seed_global(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Seeds torch's global generators of the CPU and the device; torch.manual_seed takes 0.1 ms for all there are."""
    torch.default_generator.manual_seed(derive(seed, purpose, *counters))
    if device.type == "cuda":
        torch.cuda.manual_seed(derive(seed, purpose, *counters))


def subset(size: int, count: int) -> torch.Tensor:
    """Ascending indices of up to `count` of `size` images, random but the same for every run."""
    return torch.randperm(size, generator=generator(0, "subset"))[:count].sort().values


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seeds torch's global generator within the block, then restores it; for the initial weights of modules."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, purpose))
        yield
