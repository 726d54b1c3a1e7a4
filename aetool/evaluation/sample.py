"""New images of a run, interpolations and traversals, as pictures and arrays in the run's folder."""

from pathlib import Path

import numpy as np

from aetool.config.identity import identity
from aetool.config.schema import SampleConfig, TrainConfig
from aetool.config.targets import build
from aetool.data.grid import grid
from aetool.evaluation import figures, pictures
from aetool.evaluation.background import Figures
from aetool.evaluation.generation import Generation, generate
from aetool.evaluation.measurement import Measurement, best_step, reused
from aetool.evaluation.session import Session
from aetool.files import JsonObject, replacing
from aetool.models.base import is_variational
from aetool.storage.run import Run

SETTINGS = ("latent", "count", "images", "seed")
FILES = ("samples.png", "interpolations.png", "traversals.png", "samples.npz")
SHOWN_SAMPLES = 256  # in the picture; the .npz has all


def measurement(run: Run[TrainConfig], config: SampleConfig, step: int | None = None) -> Measurement:
    """The samples of a checkpoint, by default the best one."""
    settings = {key: identity(getattr(config, key)) for key in SETTINGS}
    return Measurement(run, "sample", settings, best_step(run) if step is None else step)


def sample(session: Session, config: SampleConfig) -> tuple[Path, JsonObject]:
    """The folder of the samples and the content of its metrics.json; drawn once.

    Raises WriteError if the folder cannot be written.
    """
    made = measurement(session.run, config, session.chosen)
    found = reused(session.run, made)
    return made.folder, found if found is not None else _sample(session, config)


def _sample(session: Session, config: SampleConfig) -> JsonObject:
    target, name = measurement(session.run, config, session.step), session.run.directory.name
    latent = build(config.latent, has_prior=is_variational(session.trained.model))
    made = generate(
        session.trained,
        session.dataset,
        latent,
        count=config.count,
        images=config.images,
        seed=config.seed,
        device=session.device,
    )
    distribution = type(latent).__name__.lower()
    found = target.settings | {"distribution": distribution} | made.metrics
    with session.figures:
        _draw(session.figures, target, made, name, distribution)
    target.write(found, [FILES[3]])
    return found


def _draw(drawn: Figures, target: Measurement, made: Generation, name: str, distribution: str) -> None:
    paths = [target.path(file) for file in FILES]
    rows = pictures.square(made.pixels[:SHOWN_SAMPLES])
    height = 0.4 + 8 * len(rows) / len(rows[0])
    drawn.draw(figures.save_grid, paths[0], grid(rows), height, f"{name}, new codes ({distribution})")
    title, columns = f"{name}, between test images", len(made.interpolations[0])
    drawn.draw(figures.save_interpolations, paths[1], grid(made.interpolations), columns, title)
    change = "each unit from 0 to its largest value" if made.non_negative else "each unit by -3 to 3 of its std"
    units, traversals = zip(*made.traversals.items(), strict=True)
    drawn.draw(figures.save_traversals, paths[2], grid(traversals), units, f"{name}, {change}")
    pixels = (made.pixels * 255).round().byte().numpy()
    with replacing(paths[3]) as temporary, temporary.open("wb") as file:
        np.savez(file, images=pixels, codes=made.codes.numpy())
