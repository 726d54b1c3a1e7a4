"""Results of a benchmark of the trainer."""

from dataclasses import asdict, dataclass, field
from typing import Any

from aetool.bench.ceiling import Call
from aetool.bench.timing import Spread

AETOOL, BARE, FASTEST, USUAL = "aetool", "bare loop", "fastest bare loop", "PyTorch as usual"


@dataclass
class LayerTime:
    """Best times of a layer's primitives alone."""

    name: str
    seconds: dict[str, float] = field(default_factory=lambda: {"forward": 0.0, "backward": 0.0})
    flops: int = 0
    nbytes: int = 0

    def add(self, call: Call, seconds: float) -> None:
        self.seconds[call.phase] += seconds
        self.flops += call.flops
        self.nbytes += call.nbytes

    @property
    def flops_per_second(self) -> float:
        return self.flops / sum(self.seconds.values())


@dataclass(frozen=True)
class Result:
    """All lists are over rounds, which are paired: each round measures everything in turn."""

    title: str
    hardware: dict[str, Any]
    batch_size: int
    images_per_second: dict[str, list[float]]  # by loop
    variants: dict[str, str]  # precision and layout of the bare loops
    variant_rates: dict[str, float]  # images per second of every variant of the bare loop, in the warm-up
    layers: list[LayerTime]
    ceiling_seconds: list[float]  # per step: the primitives alone
    flops: int  # of the primitives of a step
    nbytes: int  # read and written by them
    parts: list[dict[str, float]]  # seconds per step
    peak_flops_per_second: float
    peak_bytes_per_second: float

    @property
    def rates(self) -> dict[str, Spread]:
        """Images per second of every loop."""
        return {name: Spread.of(values) for name, values in self.images_per_second.items()}

    @property
    def ratios(self) -> dict[str, Spread]:
        """Ratio of aetool's images per second to that of every other loop."""
        ours = self.images_per_second[AETOOL]
        others = {name: values for name, values in self.images_per_second.items() if name != AETOOL}
        return {
            name: Spread.of([mine / theirs for mine, theirs in zip(ours, values, strict=True)])
            for name, values in others.items()
        }

    @property
    def ceiling(self) -> Spread:
        """Images per second of the primitives alone."""
        return Spread.of([self.batch_size / seconds for seconds in self.ceiling_seconds])

    def fraction(self, name: str) -> Spread:
        """A loop's fraction of the ceiling."""
        pairs = zip(self.images_per_second[name], self.ceiling_seconds, strict=True)
        return Spread.of([rate * seconds / self.batch_size for rate, seconds in pairs])

    @property
    def step_parts(self) -> dict[str, float]:
        """Median seconds per step of each part."""
        return {name: Spread.of([one[name] for one in self.parts]).median for name in self.parts[0]}

    def flops_per_second(self, name: str) -> float:
        """Time of the primitives as a fraction of the whole step of a loop."""
        return self.flops / self.batch_size * self.rates[name].median

    @property
    def roof(self) -> float:
        """The best FLOP/s measured, for a large matrix product or a layer."""
        return max(self.peak_flops_per_second, *(layer.flops_per_second for layer in self.layers))

    def plain(self) -> dict[str, Any]:
        """Everything, as JSON stores it."""
        summary = {
            "rates": {name: spread._asdict() for name, spread in self.rates.items()},
            "ratios": {name: spread._asdict() for name, spread in self.ratios.items()},
            "ceiling": self.ceiling._asdict(),
            "fraction_of_ceiling": {name: self.fraction(name)._asdict() for name in self.images_per_second},
            "seconds_per_step": self.step_parts,
        }
        return {"summary": summary} | asdict(self)
