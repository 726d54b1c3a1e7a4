"""Networks in plain PyTorch: what a user brings."""

from torch import Tensor, nn

from aetool.models.base import Autoencoder


class PlainDense(Autoencoder):
    """784-128-64-128-784."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 784), nn.Unflatten(1, (1, 28, 28)))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code)


class PlainConv(Autoencoder):
    """Three stages of 3×3 convolution, GELU and 2×2 pooling for images of 3×32×32; transposed convolutions back."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()

        def down(channels: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, width, 3, padding=1), nn.GELU(), nn.AvgPool2d(2)]

        def up() -> list[nn.Module]:
            return [nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1), nn.GELU()]

        self.encoder = nn.Sequential(*down(3), *down(width), *down(width))
        self.decoder = nn.Sequential(*up(), *up(), *up(), nn.Conv2d(width, 3, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code)
