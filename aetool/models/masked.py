"""Masked autoencoder: a small vision transformer that predicts hidden patches."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import Fraction, ModelTraits, NonNegativeInt, OpenFraction, PositiveInt
from aetool.models.attention import positions, transformer
from aetool.models.base import Autoencoder, AutoencoderOutput

EPSILON = 1e-6  # added to the variance of a patch (He et al. 2022)


class Masked(Autoencoder):
    """The encoder sees a random fraction of an image's patches, the decoder predicts the others (He et al. 2022).

    The code is the grid of encoded tokens, (B, code_size, rows, columns); the extra `pooled` is their mean,
    (B, code_size). With a generator, in training, a fraction `mask_ratio` of each image's patches is hidden: the
    encoder does not see them, their code is 0, and the decoder gets a learned mask token in their place. Sides that are
    not a multiple of `patch_size` are padded by repeating the border, and the reconstruction is cropped.

    The extra `hidden`, (B, 1, H, W), is 1 on the pixels of hidden patches and 0 elsewhere. The extra `pixel_weight` is
    w / mean(w), where w is 1 on hidden patches and `visible_weight` on the others. With `visible_weight` 0, as in He et
    al., the loss is the mean over hidden pixels, and the network never learns to reconstruct visible patches, as
    reconstructions of whole images need.

    With `normalize_target` the target of a hidden patch is its pixels normalised by their own mean μ and standard
    deviation σ: the reconstruction is σ · prediction + μ with the true μ and σ, and w is divided by σ². As these are
    not in the code, the decoder learns to predict them on visible patches.

    Raises ValueError if one patch covers the image, or if `heads` does not divide a width.
    """

    traits = ModelTraits(
        extras=("pooled", "hidden", "pixel_weight"),
        l0_depends_on_lambda=False,
        needs_squared_error_if="normalize_target",
    )

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: PositiveInt,
        code_size: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
        decoder_width: PositiveInt,
        decoder_depth: NonNegativeInt,
        decoder_heads: PositiveInt,
        mask_ratio: OpenFraction,
        visible_weight: Fraction,
        normalize_target: bool,
    ) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        self.patch_size = patch_size
        self.grid = (-(-self.height // patch_size), -(-self.width // patch_size))
        self.tokens = math.prod(self.grid)
        if self.tokens == 1:
            raise ValueError(f"patch_size={patch_size}: one patch covers the whole image; choose a smaller patch_size")
        self.hidden = min(max(round(mask_ratio * self.tokens), 1), self.tokens - 1)  # patches per image
        self.visible_weight, self.normalize_target = visible_weight, normalize_target

        values = channels * patch_size**2
        self.patch_embedding = nn.Linear(values, code_size)
        self.positions = positions(self.tokens, code_size)
        self.encoder = transformer(code_size, depth, heads)
        self.decoder_embedding = nn.Linear(code_size, decoder_width)
        self.decoder_positions = positions(self.tokens, decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.decoder = transformer(decoder_width, decoder_depth, decoder_heads)
        self.prediction = nn.Linear(decoder_width, values)
        self.statistics = nn.Linear(decoder_width, 2) if normalize_target else None  # μ and log σ of visible patches

    def encode(self, x: Tensor) -> Tensor:
        tokens = self.encoder(self.patch_embedding(self._patches(x)) + self.positions)
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def decode(self, code: Tensor) -> Tensor:
        tokens = self.decoder_embedding(code.flatten(2).transpose(1, 2))
        return self._image(self._decode(tokens))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        if generator is None:
            code = self.encode(x)
            everywhere = torch.ones_like(x[:, :1])
            extras = {"pooled": code.flatten(2).mean(2), "hidden": 1 - everywhere, "pixel_weight": everywhere}
            return AutoencoderOutput(self.decode(code), code, extras)
        patches = self._patches(x)  # (B, T, values)
        order = torch.rand(patches.shape[:2], generator=generator, device=x.device).argsort(1)
        visible = order[:, self.hidden :, None]  # (B, V, 1)
        seen = self.patch_embedding(patches.gather(1, visible.expand(-1, -1, patches.shape[2])))
        seen = self.encoder(seen + self.positions[visible.squeeze(2)])
        mask = torch.ones_like(patches[:, :, :1]).scatter(1, visible, 0)  # (B, T, 1), 1 where hidden
        code = self._spread(seen, visible)
        known = self._spread(self.decoder_embedding(seen), visible)
        predicted = self._decode(torch.where(mask == 1, self.mask_token, known), patches, mask)
        hidden = self._image(mask)
        weight = hidden + self.visible_weight * (1 - hidden)
        weight = weight / weight.mean()
        if self.normalize_target:
            weight = weight / self._image(torch.where(mask == 1, _deviation(patches), 1)).square()
        extras = {"pooled": seen.mean(1), "hidden": hidden, "pixel_weight": weight}
        return AutoencoderOutput(self._image(predicted), code.transpose(1, 2).unflatten(2, self.grid), extras)

    def atoms(self) -> Tensor:
        """The filters of the patch embedding, (code_size, C, patch_size, patch_size)."""
        return self.patch_embedding.weight.unflatten(1, (-1, self.patch_size, self.patch_size))

    def _decode(self, tokens: Tensor, patches: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Patches (B, T, values) from tokens; where the mask is 1, with the μ and σ of the given patches."""
        tokens = self.decoder(tokens + self.decoder_positions)
        predicted = self.prediction(tokens)
        if self.statistics is None:
            return predicted
        mean, log_deviation = self.statistics(tokens).split(1, 2)
        deviation = log_deviation.exp()
        if patches is not None and mask is not None:
            mean = torch.where(mask == 1, patches.mean(2, keepdim=True), mean)
            deviation = torch.where(mask == 1, _deviation(patches), deviation)
        return deviation * predicted + mean

    def _spread(self, seen: Tensor, visible: Tensor) -> Tensor:
        """(B, T, width) from the visible tokens (B, V, width), with 0 in place of the others."""
        everywhere = seen.new_zeros(len(seen), self.tokens, seen.shape[2])
        return everywhere.scatter(1, visible.expand_as(seen), seen)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, T, C · patch_size²)."""
        (rows, columns), side = self.grid, self.patch_size
        padding = (0, columns * side - self.width, 0, rows * side - self.height)
        x = F.pad(x, padding, mode="replicate").unflatten(3, (columns, side)).unflatten(2, (rows, side))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # x is (B, C, rows, side, columns, side)

    def _image(self, patches: Tensor) -> Tensor:
        """The inverse of `_patches`, (B, C, H, W); values (B, T, 1) fill their patches, (B, 1, H, W)."""
        (rows, columns), side = self.grid, self.patch_size
        patches = patches.expand(-1, -1, max(side**2, patches.shape[2]))
        x = patches.unflatten(2, (-1, side, side)).unflatten(1, (rows, columns))
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # (B, C, rows · side, columns · side)
        return x[:, :, : self.height, : self.width]


def _deviation(patches: Tensor) -> Tensor:
    """σ of each patch, (B, T, 1)."""
    return (patches.var(2, correction=0, keepdim=True) + EPSILON).sqrt()
