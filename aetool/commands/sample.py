"""aetool sample run=DIR"""

from collections.abc import Sequence

from aetool.config.compose import Point
from aetool.config.schema import SampleConfig
from aetool.config.tree import known_targets
from aetool.evaluation.sample import FILES, sample
from aetool.evaluation.session import Session
from aetool.files import JsonObject
from aetool.storage.opening import named, opened


def run(points: Sequence[Point[SampleConfig]]) -> int:
    """Samples images from every run, or names the folder of existing ones."""
    targets = known_targets(points[0].config_dir)
    for point in points:
        with opened(point.config.run, targets) as found:
            folder, metrics = sample(Session(found, point.config, point.config.step), point.config)
            if point.config.step is not None:
                print(named(found, point.config.step))
        print(_summary(metrics))
        for name in FILES:
            print(f"  {folder / name}")
    return 0


def _summary(found: JsonObject) -> str:
    fitted = f" fitted to {found['fitted_images']:,.0f} training codes" if "fitted_images" in found else ""
    lines = [
        f"{found['count']} new codes: {found['distribution']}{fitted}, seed {found['seed']}",
        f"active units (L0): {found['l0']:.1f}; of real codes {found['real_l0']:.1f}",
    ]
    if "clamped_fraction" in found:
        lines.append(
            f"codes here are non-negative: out-of-range samples were clamped ({found['clamped_fraction']:.1%})"
        )
    return "\n".join(lines)
