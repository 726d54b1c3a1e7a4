"""The trainer's speed against other loops and the measured ceiling, and a breakdown of its steps."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from aetool.bench.breakdown import breakdown
from aetool.bench.ceiling import Call, peak_bandwidth, peak_flops, primitives
from aetool.bench.hardware import hardware
from aetool.bench.loops import MeanError, Pictures, bare_loop, usual_loop
from aetool.bench.ours import Ours
from aetool.bench.result import AETOOL, BARE, FASTEST, USUAL, LayerTime, Result
from aetool.bench.timing import Clock, finished
from aetool.config.schema import BenchConfig
from aetool.config.targets import build
from aetool.losses import Loss
from aetool.system.machine import has_bf16
from aetool.training.assembly import cache_dir, load_dataset
from aetool.training.decisions import decided
from aetool.training.hardware import has_fused_optimizers, prepare_torch

Loop = Iterator[None]  # a training step per `next`
FORMATS = {"channels-first": torch.contiguous_format, "channels-last": torch.channels_last}
MOST_VALUES = 2**28  # of images that other loops hold as float32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Bench:
    """Everything that a measurement needs."""

    config: BenchConfig
    ours: Ours
    images: torch.Tensor  # (N, C, H, W) uint8
    device: torch.device
    clock: Clock
    say: Callable[[str], None]  # progress

    def seconds(self, loop: Loop, steps: int) -> float:
        started = finished(self.device, self.clock)
        for _ in range(steps):
            next(loop)
        return finished(self.device, self.clock) - started

    def steps(self, loop: Loop) -> int:
        """Warms up a loop for about `config.seconds`, and returns the number of steps that this took."""
        next(loop)
        steps, seconds = 1, self.seconds(loop, 1)
        while seconds < self.config.seconds / 2:
            steps *= 2
            seconds = self.seconds(loop, steps)
        return max(1, round(self.config.seconds / max(seconds, 1e-9) * steps))


def measure(config: BenchConfig, folder: Path, clock: Clock, say: Callable[[str], None]) -> Result:
    """Times all loops in turn, round by round; each starts from the same weights and sees batches of the same size."""
    config = decided(config)
    device = prepare_torch(config)
    dataset = load_dataset(config.dataset, cache_dir(config))
    ours = Ours(config, folder, dataset, device)
    images = dataset.train.images
    bench = Bench(config, ours, images[: MOST_VALUES // images[0].numel()], device, clock, say)
    dtype, size = DTYPES[ours.precision], config.trainer.batch_size
    try:
        if config.penalty.terms or config.corruption.level:
            say("the other loops train on the reconstruction loss alone: no penalty, no noise")
        say("warming up")
        calls = primitives(ours.loss)
        variants = _bare_variants(bench)
        rates = {name: size / _step_seconds(bench, loop) for name, loop in variants.items()}
        chosen = {BARE: _fastest(rates, ours.precision), FASTEST: _fastest(rates)}
        if chosen[FASTEST] == chosen[BARE]:
            del chosen[FASTEST]
        loops: dict[str, Loop] = {AETOOL: ours.steps()}
        loops |= {name: variants[variant] for name, variant in chosen.items()}
        loops[USUAL] = _usual(bench)
        rounds, ceilings = _rounds(bench, loops, calls)
        say("where a step goes")
        steps = bench.steps(loops[AETOOL])
        parts = [breakdown(ours.watched_steps, steps, device, clock) for _ in range(config.rounds)]
        say("peaks")
        peaks = peak_flops(dtype, device, clock), peak_bandwidth(device, clock)
    finally:
        ours.close()
    return Result(
        f"{config.model.name} on {config.dataset.name}, batch {size}, {ours.precision}{_layout(ours.model)}",
        hardware(device),
        size,
        rounds,
        chosen,
        rates,
        _layers(calls, ceilings),
        [sum(seconds) for seconds in ceilings],
        sum(call.flops for call in calls),
        sum(call.nbytes for call in calls),
        parts,
        *peaks,
    )


def _rounds(
    bench: Bench, loops: Mapping[str, Loop], calls: list[Call]
) -> tuple[dict[str, list[float]], list[list[float]]]:
    """Images per second of every loop and seconds of every primitive, round by round, all in turn."""
    images: dict[str, list[float]] = {name: [] for name in loops}
    ceilings = []
    steps = {name: bench.steps(loop) for name, loop in loops.items()}
    size, rounds = bench.config.trainer.batch_size, bench.config.rounds
    for number in range(1, rounds + 1):
        for name, loop in loops.items():
            images[name].append(steps[name] * size / bench.seconds(loop, steps[name]))
        ceilings.append([call.seconds(bench.device, 3, bench.clock) for call in calls])
        ours, bare = images[AETOOL][-1], images[BARE][-1]
        bench.say(f"round {number}/{rounds}: {ours:,.0f} images/s, {ours / bare:.3f} of the bare loop")
    return images, ceilings


def _bare_variants(bench: Bench) -> dict[str, Loop]:
    """Bare loops in all precisions that are fast on the device and, with convolutions, in both layouts."""
    precisions = ["fp32", "bf16"] if has_bf16(bench.device) else sorted({"fp32", bench.ours.precision})
    maps = any(parameter.ndim == 4 for parameter in bench.ours.model.parameters())
    x = torch.cat([bench.ours.preprocessing.to_input(part) for part in bench.images.split(1000)]).to(bench.device)
    loops = {}
    for layout, memory_format in FORMATS.items() if maps else [("", torch.contiguous_format)]:
        laid_out = x.contiguous(memory_format=memory_format)
        for precision in precisions:
            model = copy.deepcopy(bench.ours.model).to(memory_format=memory_format)
            loops[f"{precision} {layout}".strip()] = bare_loop(
                model,
                build(bench.config.optimizer, params=model.parameters(), fused=has_fused_optimizers(bench.device)),
                _mean_error(bench),
                laid_out,
                bench.config.trainer.batch_size,
                torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16"),
            )
    return loops


def _usual(bench: Bench) -> Loop:
    """Uses the config's optimizer in torch's default implementation."""
    config = bench.config
    model = copy.deepcopy(bench.ours.model).to(memory_format=torch.contiguous_format)
    optimizer = build(config.optimizer, params=model.parameters())
    images = Pictures(bench.images, bench.ours.preprocessing)
    return usual_loop(model, optimizer, _mean_error(bench), images, config.trainer.batch_size, bench.device)


def _mean_error(bench: Bench) -> MeanError:
    """The trainer's loss, with its own parameters."""
    loss = copy.deepcopy(bench.ours.pixel_loss)
    return loss.mean if isinstance(loss, Loss) else lambda reconstruction, x: loss(reconstruction, x).mean()


def _step_seconds(bench: Bench, loop: Loop) -> float:
    """The best of three short rounds."""
    steps = max(1, bench.steps(loop) // 3)
    return min(bench.seconds(loop, steps) for _ in range(3)) / steps


def _fastest(rates: Mapping[str, float], precision: str = "") -> str:
    return max((name for name in rates if name.startswith(precision)), key=lambda name: rates[name])


def _layers(calls: list[Call], ceilings: list[list[float]]) -> list[LayerTime]:
    """Per layer in the order of the forward pass, with the best times over all rounds."""
    best = [min(seconds) for seconds in zip(*ceilings, strict=True)]
    found: dict[str, LayerTime] = {}
    for call, seconds in zip(calls, best, strict=True):
        found.setdefault(call.layer, LayerTime(call.layer)).add(call, seconds)
    return list(found.values())


def _layout(model: nn.Module) -> str:
    """Description of the layout of its convolutions, if there are any."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    first = all(weight.is_contiguous() for weight in weights)
    return (", channels-first" if first else ", channels-last") if weights else ""
