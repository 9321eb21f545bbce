"""TensorRT's timing cache: times of kernels on one GPU, kept from build to build so that the same ones are chosen."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from slipway.engines.nvidia_gpu import Gpu
from slipway.engines.users_cache import in_users_cache
from slipway.errors import BadInputError


class TimingCache:
    """The cache in the file ``path``, or in the user's cache in one of its own per ``version`` and ``gpu``."""

    def __init__(self, path: Path | None, version: str, gpu: Gpu) -> None:
        self.path = path or in_users_cache("tensorrt", version, gpu.name, gpu.capability, suffix=".cache")
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Let a build take times from the cache, and add those that it lacks.

        Raises:
            BadInputError: the cache was made by another version, or on another GPU.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        self._cache = config.create_timing_cache(content)
        if self._cache is None or not config.set_timing_cache(self._cache, ignore_mismatch=False):
            raise BadInputError(
                f"the timing cache {self.path} is of another TensorRT or GPU; remove it, or name another"
            )

    def save(self) -> str:
        """Write the cache as it is after the build; its sha256."""
        content = bytes(self._cache.serialize())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(self.path)  # another build may read it at any time
        return hashlib.sha256(content).hexdigest()
