"""The small transformer for small images; importing this module imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CompactTransformer(nn.Module):
    """Compact convolutional transformer (Hassani et al. 2021): two strided convolutions make 49 tokens of 28x28 pixels.

    PyTorch's own encoder follows; its answers are weighed by a learned attention, and classified.

    Args:
        classes: number of logits.
        width: size of a token.
        layers: encoder layers, each with 4 heads.
    """

    def __init__(self, classes: int, width: int = 96, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Sequential(
            nn.Conv2d(1, width // 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 12, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.positions = nn.Parameter(0.02 * torch.randn(1, 49, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.pool = nn.Linear(width, 1)
        self.linear = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, 28, 28) float32 to logits (N, classes)."""
        x = self.encoder(self.tokens(image).flatten(2).transpose(1, 2) + self.positions)
        weights = torch.softmax(self.pool(x), 1)
        return self.linear((weights.transpose(1, 2) @ x).squeeze(1))  # type: ignore[no-any-return]  # torch types a call as Any
