"""The figures of an evaluation, as PNG files and in TensorBoard."""

from pathlib import Path

from aetool.data.grid import grid, reconstruction_rows
from aetool.evaluation import figures
from aetool.evaluation.atlas import Atlas, decoder_responses, write_atlas
from aetool.evaluation.metrics import Evaluation, Sensitivity, projected
from aetool.evaluation.session import Session
from aetool.randomness import subset
from aetool.storage.record import Events


def draw_reconstructions(session: Session, events: Events, result: Evaluation, errors: Path) -> None:
    """Reconstructions, the histogram of errors, and the model's atoms where it has some."""
    name = session.run.directory.name
    images, reconstructions = (pixels.cpu() for pixels in result.samples)
    figures.save_reconstructions(session.figure("reconstructions.png"), images, reconstructions, f"{name}, test images")
    figures.save_error_histogram(errors, result.errors, f"{name}, test images")
    events.image("test/reconstructions", grid(reconstruction_rows(images, reconstructions)), session.step)
    atoms = session.trained.model.atoms()
    if atoms is not None:
        figures.save_atoms(session.figure("atoms.png"), atoms.detach(), f"{name}, atoms")
        events.image("atoms", grid(figures.atom_rows(atoms.detach())), session.step)


def draw_jacobian(session: Session, jacobian: Sensitivity) -> None:
    if jacobian.singular_values is not None:
        title = f"{session.run.directory.name}, validation images"
        figures.save_singular_values(session.figure("singular_values.png"), jacobian.singular_values, title)


def draw_atlas(session: Session, events: Events, result: Evaluation, units: Atlas, count: int, table: Path) -> None:
    """The `count` most used units as a picture, all of them as csv."""
    names, images = session.dataset.class_names, session.dataset.val.images
    write_atlas(table, units, names)
    shown = units.by_use[:count]
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


def project_codes(session: Session, events: Events, count: int) -> None:
    """Codes of validation images for TensorBoard's projector, with thumbnails and classes."""
    images, labels = session.dataset.val.images, session.dataset.val.labels
    chosen = subset(len(images), count)
    points = projected(session.trained, images[chosen], session.device)
    names = session.dataset.class_names
    words = [] if labels is None else [names[label] for label in labels[chosen].tolist()]
    events.embedding(points.numpy(), *figures.sprites(images[chosen] / 255), words)
