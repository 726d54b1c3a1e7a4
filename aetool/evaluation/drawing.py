"""The figures of an evaluation, as PNG files and in TensorBoard."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from aetool.data.grid import grid, reconstruction_rows
from aetool.evaluation import figures, pictures
from aetool.evaluation.atlas import Atlas, decoder_responses, write_atlas
from aetool.evaluation.background import Figure
from aetool.evaluation.metrics import Evaluation, Sensitivity, projected
from aetool.evaluation.session import Session
from aetool.measures.code import RARE, firing_metrics
from aetool.randomness import subset


def draw_reconstructions(session: Session, result: Evaluation, errors: Path) -> dict[str, np.ndarray]:
    """Draws reconstructions, the histogram of errors and the model's atoms; returns pictures for TensorBoard."""
    name, draw = session.run.directory.name, session.figures.draw
    found = {"test/reconstructions": grid(reconstruction_rows(*(pixels.cpu() for pixels in result.samples)))}
    title = f"{name}, test images"
    draw(figures.save_reconstructions, session.figure("reconstructions.png"), found["test/reconstructions"], title)
    draw(figures.save_error_histogram, errors, result.errors.cpu().numpy(), title)
    return found | draw_atoms(session)


def draw_atoms(session: Session) -> dict[str, np.ndarray]:
    """Draws the model's atoms, if it has any; returns the picture for TensorBoard."""
    atoms = session.trained.model.atoms()
    if atoms is None:
        return {}
    rows = pictures.atom_rows(atoms.detach())
    picture, height = grid(rows), 0.6 + 8 * len(rows) / len(rows[0])
    title = f"{session.run.directory.name}, atoms"
    session.figures.draw(figures.save_grid, session.figure("atoms.png"), picture, height, title)
    return {"atoms": picture}


def draw_jacobian(session: Session, jacobian: Sensitivity) -> None:
    if jacobian.singular_values is not None:
        path, values = session.figure("singular_values.png"), jacobian.singular_values.float().cpu().numpy()
        session.figures.draw(
            figures.save_singular_values, path, values, f"{session.run.directory.name}, validation images"
        )


def draw_atlas(session: Session, result: Evaluation, units: Atlas, count: int, table: Path) -> Figure | None:
    """Writes the `count` most active units as a figure and all units as csv."""
    names, images = session.dataset.class_names, session.dataset.val.images
    write_atlas(table, units, names)
    shown = units.by_use[:count]
    if len(shown) == 0:
        return None
    responses = decoder_responses(session.trained, result.mean_code, units, shown)
    most = units.images[shown]
    best = (images[most.clamp(min=0)] / 255).where((most >= 0)[..., None, None, None], 1.0)
    labels = [units.label(unit, names) for unit in shown.tolist()]
    dead = len(units.frequency) - len(units.by_use)
    title = (
        f"{session.run.directory.name}: the {len(shown)} most used of {len(units.frequency)} code units ({dead} dead): "
        "what the decoder draws for each, and the validation images that activate it most"
    )
    cells = pictures.atlas_cells(responses, best)
    return session.figures.draw(figures.save_atlas, session.figure("atlas.png"), cells, labels, title)


def draw_firing_frequency(session: Session, frequency: Tensor, images: int) -> Figure:
    """Draws how often each unit is active, from the frequencies (units,) on up to this many training images."""
    counted = min(images, len(session.dataset.train.images))
    fractions = firing_metrics(frequency)
    title = (
        f"{session.run.directory.name}, {counted:,} training images\n{fractions['dead_fraction']:.1%} of units dead, "
        f"{fractions['rare_fraction']:.1%} dead or active on under {RARE:.1%} of images"
    )
    path = session.figure("firing_frequency.png")
    return session.figures.draw(figures.save_firing_frequency, path, frequency.numpy(), RARE, title)


def draw_kl(session: Session, kl: Tensor) -> Figure:
    """The mean KL of each unit on the validation images, nats, (units,)."""
    title = f"{session.run.directory.name}, validation images: {kl.sum():.4g} nats in {len(kl)} units"
    return session.figures.draw(figures.save_kl, session.figure("kl.png"), kl.cpu().numpy(), title)


class Projection(NamedTuple):
    """What TensorBoard's projector shows."""

    points: np.ndarray  # (n, D)
    thumbnails: np.ndarray  # (H, W, 3) uint8, all in one picture
    size: tuple[int, int]  # of each
    labels: list[str]  # empty without classes


def projection(session: Session, count: int) -> Projection:
    """Codes of up to `count` validation images for TensorBoard's projector, with thumbnails and classes."""
    images, labels = session.dataset.val.images, session.dataset.val.labels
    chosen = subset(len(images), count)
    points = projected(session.trained, images[chosen], session.device)
    names = session.dataset.class_names
    words = [] if labels is None else [names[label] for label in labels[chosen].tolist()]
    return Projection(points.numpy(), *pictures.sprites(images[chosen] / 255), words)
