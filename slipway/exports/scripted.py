"""How a ScriptModule is written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.records import Signature

if TYPE_CHECKING:
    import torch

# TorchScript still runs in torch 2.13 and is what its own engine loads; torch calls it deprecated at each use.
DEPRECATED = r"`torch\.jit\.\w+` is deprecated"


def save_scripted(module: torch.nn.Module, signature: Signature, out: Path) -> str:
    """Write a ScriptModule with its signature (extra file ``signature.json``) to ``out`` and return how, in words."""
    import torch

    with out.open("wb") as file, warnings.catch_warnings():  # given a path, torch writes its name into the bytes
        warnings.filterwarnings("ignore", DEPRECATED, DeprecationWarning)
        torch.jit.save(module, file, _extra_files={"signature.json": signature.model_dump_json()})
    return "TorchScript as registered"
