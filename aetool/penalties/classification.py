"""A penalty that makes classes linearly separable in the code."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import PenaltyTraits, PositiveFraction
from aetool.data.dataset import holdout
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.penalties.base import Penalty


class Classification(Penalty, nn.Module):
    """Cross-entropy of a linear head on the flattened code, in nats, the mean over the images with a visible label.

    In training these are a fraction `labels_fraction` of the train split, stratified by class and the same in every
    run; in validation all images. 0 for a batch without any. Raises ValueError if the dataset has no labels.
    """

    traits = PenaltyTraits(whole_images=True)

    def __init__(
        self, code_size: int, num_classes: int, train_labels: Tensor | None, labels_fraction: PositiveFraction
    ) -> None:
        super().__init__()
        if train_labels is None:
            raise ValueError("the dataset has no labels; set penalty=none or choose another dataset")
        self.head = nn.Linear(code_size, num_classes)
        visible = torch.ones(len(train_labels), dtype=torch.bool)
        if labels_fraction < 1:
            visible = torch.from_numpy(holdout(train_labels.cpu().numpy(), len(train_labels), labels_fraction))
        self.visible = nn.Buffer(visible, persistent=False)  # restored from the data

    def __call__(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> Tensor:
        assert batch.labels is not None  # the constructor refuses a dataset without labels
        errors = F.cross_entropy(self.head(output.code.flatten(1)), batch.labels, reduction="none")
        if batch.indices is None:
            return errors.mean()
        visible = self.visible[batch.indices]
        return (errors * visible).sum() / visible.sum().clamp_min(1)
