"""aetool evaluate run=DIR"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool.config.compose import Point, known_targets
from aetool.errors import poll_signals
from aetool.evaluation.catalogue import tensorboard_headlines
from aetool.report.summary import print_evaluation
from aetool.storage.opening import opened
from aetool.storage.run import Run, read_json, write_json

if TYPE_CHECKING:
    from aetool.evaluation.atlas import Atlas
    from aetool.evaluation.evaluate import Evaluation, Sensitivity
    from aetool.evaluation.session import Session
    from aetool.storage.record import Events

STAGE = "evaluate"


def run(points: list[Point], config_dir: Path | None) -> int:
    """Measures every run again, or prints what was measured before."""
    targets = known_targets(config_dir)
    for point in points:
        with opened(point.config["run"], targets) as run:
            print_evaluation(run.config["model"]["name"], measure(run, point.config))
    return 0


def folder(run: Run, config: dict[str, Any], step: int | None = None) -> Path:
    """Where the evaluation of a checkpoint, the best one by default, stands or will stand."""
    step = int(run.metrics["pretrain"]["best_step"]) if step is None else step
    return run.measured(STAGE, {"baselines": config["baselines"], "step": step} | config["evaluation"])


def measure(run: Run, config: dict[str, Any], session: "Session | None" = None) -> dict[str, float]:
    """The evaluation's numbers; from its folder when it was done before."""
    found = read_json(folder(run, config) / "metrics.json")
    if found is None:
        from aetool.evaluation.session import Session

        found = _evaluate(session or Session(run, config))
    return found


def _evaluate(session: "Session") -> dict[str, float]:
    from aetool.evaluation.atlas import atlas
    from aetool.evaluation.baselines import LARGEST
    from aetool.evaluation.evaluate import evaluate, geometry, sensitivity
    from aetool.evaluation.family import family_metrics
    from aetool.measures.likelihood import collapsed
    from aetool.storage.record import Events

    run, settings = session.run, session.config["evaluation"]
    target = folder(run, session.config, session.step) / "metrics.json"
    measured = (session.trained, session.dataset, session.device)
    result = evaluate(*measured, poll_signals)
    found = sensitivity(session.trained, session.dataset, settings["jacobian_images"], session.device)
    metrics = result.metrics | {"code_size": result.code_size, "val/jacobian_norm": found.norm}
    metrics |= family_metrics(*measured, run.config, settings, lambda: session.baselines.pca, poll_signals)
    if settings["geometry_images"]:
        counts = (settings["geometry_images"], settings["neighbors"])
        metrics |= geometry(session.trained, session.dataset, *counts, session.device, poll_signals)
    units = atlas(result.activations, session.dataset.val.labels) if settings["atlas_units"] else None
    if units is not None:
        metrics |= {f"val/{key}": value for key, value in units.metrics().items()}
    warnings = degenerate(metrics, run.config["penalty"])
    if "likelihood/active_units" in metrics:
        warnings += collapsed(metrics["likelihood/active_units"], result.code_size)
    if session.config["baselines"]:
        metrics |= session.baselines.reconstruction(result.code_size)
        if session.baselines.too_large:
            warnings.append(f"no PCA and no pixel baseline: an image has over {LARGEST} values")
    target.parent.mkdir(parents=True, exist_ok=True)
    with Events(run.directory, STAGE) as events:
        _draw(session, events, result, found, target.parent)
        if units is not None:
            _draw_atlas(session, events, result, units, target.parent)
        if settings["projector_images"]:
            _project(session, events, settings["projector_images"])
        shown = {
            f"{STAGE}/{key}": metrics[key]
            for key in tensorboard_headlines(STAGE)
            if math.isfinite(metrics.get(key, math.nan))
        }
        events.scalars(session.step, shown)
    run.warn(warnings + events.warnings)
    write_json(target, metrics)
    return metrics


def _draw(session: "Session", events: "Events", result: "Evaluation", found: "Sensitivity", target: Path) -> None:
    """The figures, also for TensorBoard."""
    from aetool.data.grid import grid, reconstruction_rows
    from aetool.evaluation import figures

    name = session.run.directory.name
    images, reconstructions = (pixels.cpu() for pixels in result.samples)
    figures.save_reconstructions(session.figure("reconstructions.png"), images, reconstructions, f"{name}, test images")
    figures.save_error_histogram(target / "errors.png", result.errors, f"{name}, test images")
    if found.singular_values is not None:
        title = f"{name}, validation images"
        figures.save_singular_values(session.figure("singular_values.png"), found.singular_values, title)
    picture = grid(reconstruction_rows(images, reconstructions))
    events.image("test/reconstructions", picture, session.step)
    draw_atoms = getattr(session.trained.model, "atoms", None)
    if draw_atoms is not None:
        atoms = draw_atoms().detach()
        figures.save_atoms(session.figure("atoms.png"), atoms, f"{name}, atoms")
        events.image("atoms", grid(figures.atom_rows(atoms)), session.step)


def _draw_atlas(session: "Session", events: "Events", result: "Evaluation", units: "Atlas", target: Path) -> None:
    """The most used units as a picture, all of them as csv."""
    from aetool.evaluation import figures
    from aetool.evaluation.atlas import decoder_responses, write_atlas

    names, images = session.dataset.class_names, session.dataset.val.images
    write_atlas(target / "atlas.csv", units, names)
    shown = units.by_use[: session.config["evaluation"]["atlas_units"]]
    if len(shown) == 0:
        return
    responses = decoder_responses(session.trained, result.mean_code, units, shown)
    most = units.images[shown]
    pictures = (images[most.clamp(min=0)] / 255).where((most >= 0)[..., None, None, None], 1.0)
    labels = [units.label(unit, names) for unit in shown.tolist()]
    dead = len(units.frequency) - len(units.by_use)
    title = (
        f"{session.run.directory.name}: the {len(shown)} most used of {len(units.frequency)} code units ({dead} dead): "
        "what the decoder draws for each, and the validation images that activate it most"
    )
    picture = figures.save_atlas(session.figure("atlas.png"), responses, pictures, labels, title)
    events.image("atlas", picture, session.step)


def _project(session: "Session", events: "Events", count: int) -> None:
    """Codes of validation images for TensorBoard's projector, with thumbnails and classes."""
    from aetool.evaluation import figures
    from aetool.evaluation.evaluate import projected
    from aetool.randomness import subset

    images, labels = session.dataset.val.images, session.dataset.val.labels
    chosen = subset(len(images), count)
    points = projected(session.trained, images[chosen], session.device, poll_signals)
    names = session.dataset.class_names
    words = [] if labels is None else [names[label] for label in labels[chosen].tolist()]
    events.embedding(points.numpy(), *figures.sprites(images[chosen] / 255), words)


def degenerate(metrics: dict[str, float], penalty: dict[str, Any]) -> list[str]:
    """Warnings about a network that learned nothing of use, or not what was asked for, with the key to change."""
    warnings = []
    target = penalty["target_l0"]
    if target is not None and abs(metrics["val/l0"] / target - 1) > 0.1:
        start = "larger" if metrics["val/l0"] > target else "smaller"
        warnings.append(
            f"penalty.target_l0={target:g}: {metrics['val/l0']:.1f} units are active on validation: raise "
            f"trainer.epochs, or start from a {start} penalty.weight"
        )
    lower = "lower penalty.weight or optimizer.lr" if penalty["weight"] else "lower optimizer.lr"
    if metrics["val/dead_fraction"] == 1:
        warnings.append(f"all code units are dead: {lower}")
    elif metrics["val/code_std"] == 0:
        warnings.append(f"the code is the same for every image: {lower}")
    elif metrics["val/explained_variance"] < 0.01:
        warnings.append(f"reconstructions are no better than the mean image: train longer, or {lower}")
    return warnings
