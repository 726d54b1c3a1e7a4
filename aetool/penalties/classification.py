"""A penalty that makes codes tell classes apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import PositiveFraction
from aetool.data.dataset import holdout
from aetool.models.base import AutoencoderOutput, Batch


class Classification(nn.Module):
    """Cross-entropy of a linear head on the flattened code, the mean over the images of a batch whose label is visible.

    In training that is a share `labels_fraction` of the train split, the same images in every run, spread over the
    classes; elsewhere it is every image. 0 for a batch without any. Raises ValueError where the dataset has no labels.
    """

    def __init__(
        self, code_size: int, num_classes: int, train_labels: Tensor | None, labels_fraction: PositiveFraction
    ) -> None:
        super().__init__()
        if train_labels is None:
            raise ValueError("the dataset has no labels to learn from; set penalty=none or choose another dataset")
        self.head = nn.Linear(code_size, num_classes)
        visible = torch.ones(len(train_labels), dtype=torch.bool)
        if labels_fraction < 1:
            visible = torch.from_numpy(holdout(train_labels.cpu().numpy(), len(train_labels), labels_fraction))
        self.visible: Tensor
        self.register_buffer("visible", visible, persistent=False)  # the data tell it again

    def forward(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor:
        assert batch.labels is not None  # as the train split has them
        errors = F.cross_entropy(self.head(output.code.flatten(1)), batch.labels, reduction="none")
        if batch.indices is None:
            return errors.mean()
        visible = self.visible[batch.indices]
        return (errors * visible).sum() / visible.sum().clamp_min(1)
