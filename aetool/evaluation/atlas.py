"""A feature atlas: how each code unit responds to the validation images, and what the decoder draws for it.

A unit is an entry of a code (B, code_size), or a channel of a map (B, channels, h, w), whose activation is the value of
largest magnitude over all positions. For a unit with both signs, the stronger sign counts: its activation is max(0,
sign * h), so the images that activate it are alike.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aetool.files import replacing
from aetool.terminal import no_formula
from aetool.training.assembly import Trained

TOP = 8  # images shown for a unit
UNITS = 1024  # read at a time: bounds memory


class Atlas(NamedTuple):
    """Of `units` code units, on N images."""

    frequency: Tensor  # (units,) fraction of the images on which it is not exactly 0
    mean_activation: Tensor  # (units,) mean |h|
    sign: Tensor  # (units,) 1 or -1
    images: Tensor  # (units, TOP or N) positions of the images that activate it most, falling; -1 where no more do
    strength: Tensor  # (units,) mean activation of those images
    selectivity: Tensor | None = None  # (units,) see `class_selectivity`; None without labels or with one class
    preferred_class: Tensor | None = None  # (units,)

    @property
    def by_use(self) -> Tensor:
        """The units that are ever active, those with the largest mean |h| first."""
        order = self.mean_activation.argsort(descending=True, stable=True)
        return order[self.frequency[order] > 0]

    def metrics(self) -> dict[str, float]:
        """`class_selectivity`, the mean over units that are ever active; empty without labels."""
        if self.selectivity is None or len(self.by_use) == 0:
            return {}
        return {"class_selectivity": self.selectivity[self.by_use].mean().item()}

    def label(self, unit: int, class_names: Sequence[str]) -> str:
        first = f"unit {unit} · {100 * self.frequency[unit].item():.3g} % of images"
        if self.selectivity is None or self.preferred_class is None:
            return first
        name = class_names[int(self.preferred_class[unit])]
        return f"{first}\n{name:.24} · selectivity {self.selectivity[unit].item():.2f}"


def unit_activations(code: Tensor) -> Tensor:
    """(B, code_size), or (B, channels, …) with the place of the largest |h| of each channel -> (B, units) float32."""
    if code.ndim > 2:
        places = code.flatten(2)
        code = places.gather(2, places.abs().argmax(2, keepdim=True))[..., 0]
    return code.float()


def class_selectivity(activations: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each unit in [0, 1], and its preferred class (Morcos et al. 2018).

    (μ_max - μ_rest) / (μ_max + μ_rest) for the largest class mean and the mean of the others: 0 if alike for all
    classes, 1 if active for one alone, NaN if never active. Of activations (N, units) ≥ 0 and labels (N,). Raises
    ValueError for fewer than two classes.
    """
    classes, members = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError("class selectivity is of two classes or more")
    one_hot = torch.nn.functional.one_hot(members).double()
    means = one_hot.T @ activations.double() / one_hot.sum(0)[:, None]
    largest, preferred = means.max(0)
    rest = (means.sum(0) - largest) / (len(classes) - 1)
    return (largest - rest) / (largest + rest), classes[preferred]


def atlas(activations: Tensor, labels: Tensor | None) -> Atlas:
    """The atlas of units from activations (N, units), see `unit_activations`, and labels (N,)."""
    classes = None if labels is None or len(labels.unique()) < 2 else labels
    parts = [_columns(part, classes) for part in activations.split(UNITS, dim=1)]
    return Atlas(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _columns(activations: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
    """The fields of an `Atlas`, without the last two where there are no labels."""
    sign = torch.where(activations.amax(0) >= -activations.amin(0), 1.0, -1.0)
    towards = (activations * sign).clamp(min=0)
    most = towards.T.topk(min(TOP, len(towards)), dim=1)
    shown = most.values > 0
    return (
        (activations != 0).double().mean(0),
        activations.abs().double().mean(0),
        sign,
        most.indices.where(shown, -1),
        most.values.sum(1) / shown.sum(1).clamp(min=1),
        *(() if labels is None else class_selectivity(towards, labels)),
    )


@torch.no_grad()
def decoder_responses(trained: Trained, code: Tensor, found: Atlas, units: Tensor) -> Tensor:
    """What the decoder adds for each of these units, in pixels: (units, C, H, W); for a map, cropped to the region that
    changes.

    The unit, at the centre of its map, is increased by its strength on its top images above `code`, the mean over
    images without a batch dimension. For a linear decoder the result is its atom.
    """
    raised = code.repeat(len(units), *[1] * code.ndim)
    steps = (found.sign * found.strength)[units].to(code)
    middle = tuple(side // 2 for side in code.shape[1:])
    for row, (unit, step) in enumerate(zip(units.tolist(), steps, strict=True)):
        raised[(row, unit, *middle)] += step
    pixels = trained.preprocessing.to_pixels(trained.model.decode(torch.cat([code[None], raised])).float())
    responses = pixels[1:] - pixels[:1]
    return _cropped(responses) if code.ndim > 1 else responses


def write_atlas(path: Path, found: Atlas, class_names: Sequence[str]) -> None:
    """Every unit as a line of csv; `images` are positions in the validation split. Raises WriteError."""
    keys = ["unit", "frequency", "mean_activation", "sign"]
    keys += ["preferred_class", "class_selectivity"] if found.selectivity is not None else []
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "images"])
        for unit, frequency in enumerate(found.frequency.tolist()):
            row = [unit, f"{frequency:.6g}", f"{found.mean_activation[unit].item():.6g}", int(found.sign[unit])]
            if found.selectivity is not None and found.preferred_class is not None:
                live = frequency > 0
                row += [no_formula(class_names[int(found.preferred_class[unit])]) if live else ""]
                row += [f"{found.selectivity[unit].item():.4f}" if live else ""]
            writer.writerow([*row, " ".join(str(image) for image in found.images[unit].tolist() if image >= 0)])


def _cropped(responses: Tensor) -> Tensor:
    """The smallest square that contains everything above a tenth of each response's peak."""
    size = responses.abs().amax(1)
    seen = (size > 0.1 * size.amax((1, 2), keepdim=True)).any(0)
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return responses
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, left = (min(int(at[0]), max(0, full - side)) for at, full in zip((rows, columns), seen.shape, strict=True))
    return responses[:, :, top : top + side, left : left + side]
