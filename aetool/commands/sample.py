"""aetool sample run=DIR"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool.config.check import build
from aetool.config.compose import Point, known_targets
from aetool.errors import UserError, poll_signals
from aetool.storage.opening import opened
from aetool.storage.run import Run, read_json, write_json

if TYPE_CHECKING:
    from aetool.evaluation.generation import Generation
    from aetool.evaluation.session import Session

SETTINGS = ("latent", "count", "images", "seed")
FILES = ("samples.png", "interpolations.png", "traversals.png", "samples.npz")
SHOWN_SAMPLES = 256  # in the picture; the .npz has all


def run(points: list[Point], config_dir: Path | None) -> int:
    """Draws images from every run, or names the folder where they stand already."""
    targets = known_targets(config_dir)
    for point in points:
        with opened(point.config["run"], targets) as run:
            target, found = measure(run, point.config)
        print(_summary(found))
        for name in FILES:
            print(f"  {target / name}")
    return 0


def folder(run: Run, config: dict[str, Any], step: int | None = None) -> Path:
    """Where the samples of a checkpoint, the best one by default, stand or will stand."""
    step = int(run.metrics["pretrain"]["best_step"]) if step is None else step
    return run.measured("sample", {key: config[key] for key in SETTINGS} | {"step": step})


def measure(run: Run, config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder and what its metrics.json says; nothing is drawn twice."""
    target = folder(run, config)
    found = read_json(target / "metrics.json")
    if found is None:
        from aetool.evaluation.session import Session

        return _sample(Session(run, config))
    return target, found


def _sample(session: "Session") -> tuple[Path, dict[str, Any]]:
    from aetool.evaluation.generation import generate
    from aetool.models.base import is_variational

    config, name = session.config, session.run.directory.name
    target = folder(session.run, config, session.step)
    latent = build(config["latent"], has_prior=is_variational(session.trained.model))
    keys = {key: config[key] for key in SETTINGS if key != "latent"}
    made = generate(session.trained, session.dataset, latent, **keys, device=session.device, poll=poll_signals)
    distribution = type(latent).__name__.lower()
    settings = {key: config[key] for key in SETTINGS} | {"step": session.step, "distribution": distribution}
    found = settings | made.samples.metrics
    try:
        _write(target, made, name, distribution, found)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error}") from error
    return target, found


def _write(target: Path, made: "Generation", name: str, distribution: str, found: dict[str, Any]) -> None:
    import numpy as np

    from aetool.evaluation import figures

    target.mkdir(parents=True, exist_ok=True)
    shown = made.samples.pixels[:SHOWN_SAMPLES]
    figures.save_samples(target / FILES[0], shown, f"{name}, new codes ({distribution})")
    figures.save_interpolations(target / FILES[1], made.interpolations.images, f"{name}, between test images")
    change = "each unit from 0 to its largest value" if made.non_negative else "each unit by -3 to 3 of its std"
    figures.save_traversals(target / FILES[2], *made.traversals, f"{name}, {change}")
    pixels = (made.samples.pixels * 255).round().byte().numpy()
    np.savez(target / FILES[3], images=pixels, codes=made.samples.codes.numpy())
    write_json(target / "metrics.json", found)


def _summary(found: dict[str, Any]) -> str:
    fitted = f" fitted to {found['fitted_images']:,.0f} training codes" if "fitted_images" in found else ""
    lines = [
        f"{found['count']} new codes: {found['distribution']}{fitted}, seed {found['seed']}",
        f"active units (L0): {found['l0']:.1f}; of real codes {found['real_l0']:.1f}",
    ]
    if "clamped_fraction" in found:
        lines.append(
            f"codes here have a range, from 0 on: what was drawn outside it ({found['clamped_fraction']:.1%}) "
            "is set to its end"
        )
    return "\n".join(lines)
