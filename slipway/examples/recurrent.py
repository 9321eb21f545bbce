"""The recurrent network for short series; importing this module imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RecurrentNet(nn.Module):
    """Two convolutions that shorten the series fourfold, an LSTM in both directions, and a linear head.

    Args:
        classes: number of logits.
        width: channels of the second convolution, and size of the LSTM's state in each direction.
    """

    def __init__(self, classes: int, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, width // 8, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(width // 8),
            nn.ReLU(),
            nn.Conv1d(width // 8, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, series: Tensor) -> Tensor:
        """(N, 1, L) float32 to logits (N, classes): the last state of each direction is classified."""
        _, (state, _) = self.lstm(self.stem(series).transpose(1, 2))
        return self.linear(torch.cat((state[0], state[1]), 1))  # type: ignore[no-any-return]  # torch types a call as Any
