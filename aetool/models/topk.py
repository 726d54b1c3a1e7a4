"""k-sparse autoencoder: only the k largest units of each code are active."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from aetool.components import PositiveFloat, PositiveInt
from aetool.models.sparse import Sparse, keep_largest


class TopK(Sparse):
    """`Sparse` with the code keep_k(relu(·)): the k largest units of each image, all others 0.

    Makhzani & Frey 2013, "k-sparse autoencoders", who keep round(alpha k) units in eval mode; with the ReLU of Gao et
    al. 2024, "Scaling and evaluating sparse autoencoders", so that codes are never negative.
    """

    traits = replace(Sparse.traits, l0_depends_on_lambda=False, at_most={"k": "code_size"})

    def __init__(
        self,
        image_shape: Sequence[int],
        code_size: PositiveInt,
        k: PositiveInt,
        alpha: PositiveFloat,
        mean_image: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, code_size, mean_image)
        self.k = k
        self.k_eval = min(max(1, round(alpha * k)), code_size)

    def activate(self, pre_activation: Tensor) -> Tensor:
        return keep_largest(F.relu(pre_activation), self.k if self.training else self.k_eval, dim=1)
