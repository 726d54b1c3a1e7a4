"""Self-attention, and an autoencoder with convolutions, self-attention and global average pooling."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.components import PositiveInt, Several
from aetool.models.conv import Mirrored, Size, downsampling, map_sizes, upsampling


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention among tokens (B, T, width) (Vaswani et al. 2017).

    Raises ValueError if `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads}: has to divide the width of the tokens, {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            # The backward pass of torch's fused kernel is several times slower here, and dominates a training step.
            weights = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
            attended = weights.softmax(-1) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.projection(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)) with a hidden layer 4 times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), SelfAttention(width, heads))
        hidden = 4 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)


def transformer(width: int, depth: int, heads: int) -> nn.Sequential:
    """`depth` blocks and a final layer norm, (B, T, width) to the same shape."""
    return nn.Sequential(*(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width))


def positions(count: int, width: int) -> nn.Parameter:
    """Learned position embeddings (count, width), added to the tokens."""
    return nn.Parameter(0.02 * torch.randn(count, width))


class MapAttention(nn.Module):
    """Transformer blocks over the positions of a map (B, width, h, w), with learned position embeddings."""

    def __init__(self, map_size: Size, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.positions = positions(math.prod(map_size), width)
        self.blocks = transformer(width, depth, heads)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2) + self.positions  # (B, h · w, width)
        return self.blocks(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class Attention(Mirrored):
    """`Conv` with self-attention over the positions of the last map, and global average pooling.

    A 1×1 convolution with GELU turns the map after attention, the extra `feature_map`, into code_size channels, whose
    means are the code; without GELU the code would be a linear function of the map's mean, of channels[-1] dimensions.
    The decoder mirrors it, with a linear layer in place of the pooling. Raises ValueError if `channels` is empty or
    `heads` does not divide channels[-1].
    """

    traits = replace(Mirrored.traits, l0_depends_on_lambda=False)

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Several[PositiveInt],
        code_size: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
    ) -> None:
        sizes = map_sizes(image_shape, channels)
        widths, width = [image_shape[0], *channels], channels[-1]
        pooling = nn.Sequential(nn.Conv2d(width, code_size, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        unpooling = nn.Sequential(
            nn.Linear(code_size, width * math.prod(sizes[-1])), nn.Unflatten(1, (width, *sizes[-1]))
        )
        super().__init__(
            nn.Sequential(*downsampling(widths), MapAttention(sizes[-1], width, depth, heads)),
            pooling,
            unpooling,
            nn.Sequential(MapAttention(sizes[-1], width, depth, heads), *upsampling(widths, sizes)),
        )
