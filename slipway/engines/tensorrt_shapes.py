"""Which sizes a plan of NVIDIA's runtimes is made for: its optimization profile, by the signature and the settings."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import Field, model_validator

from slipway.engines.base import BuildOptions, Settings
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import TensorSpec

Shape: TypeAlias = tuple[int, ...]
Range: TypeAlias = tuple[int, int, int]


class ShapeSettings(Settings):
    """What NVIDIA's engines have in common.

    ``max_batch`` is the largest batch of one call, by default the largest asked for; what is larger is run in parts.
    ``dimensions`` gives least, usual and largest size of every other dynamic dimension: ``{tokens.1: [1, 128, 512]}``
    for the second dimension of the input ``tokens``. ``tf32`` lets fp32 products round their factors to 10 bits.
    """

    max_batch: int | None = Field(None, ge=1)
    dimensions: dict[str, Range] = Field(default_factory=dict)
    tf32: bool = False

    @model_validator(mode="after")
    def _ranges_rise(self) -> ShapeSettings:
        for name, (least, usual, largest) in self.dimensions.items():
            if not 1 <= least <= usual <= largest:
                raise ValueError(f"dimension {name} wants 1 <= least <= usual <= largest")
        return self


def batch_range(options: BuildOptions, settings: ShapeSettings) -> Range:
    """Least, usual and largest batch of one call: the one asked for most is the usual one.

    Raises:
        BadInputError: ``max_batch`` is less than that.
    """
    usual = options.batch[0]
    largest = settings.max_batch or max(options.batch)
    if largest < usual:
        raise BadInputError(f"max_batch is {largest}, but batch {usual} is asked for most; set it to {usual} or more")
    return 1, usual, largest


def profile_shapes(
    engine: str, options: BuildOptions, settings: ShapeSettings
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Least, usual and largest shape of every input with a dynamic dimension; the first of these is the batch.

    Raises:
        UnsupportedError: another dimension is dynamic, and the settings give no range for it.
        BadInputError: the settings give a range for a dimension that is not dynamic.
    """
    unused = set(settings.dimensions)
    shapes = {}
    for spec in options.signature.inputs:
        ranges = []
        for axis, size in enumerate(spec.shape):
            if size != -1:
                ranges.append((size, size, size))
            elif axis == 0:
                ranges.append(batch_range(options, settings))
            else:
                ranges.append(_range_of(engine, spec, axis, settings))
                unused.discard(f"{spec.name}.{axis}")
        if -1 in spec.shape:
            least, usual, largest = zip(*ranges, strict=True)
            shapes[spec.name] = (least, usual, largest)
    if unused:
        raise BadInputError(
            f"engine {engine}: the setting 'dimensions' names {', '.join(sorted(unused))}, which the model has not as "
            "a dynamic dimension after the batch; name them INPUT.AXIS, as in tokens.1"
        )
    return shapes


def _range_of(engine: str, spec: TensorSpec, axis: int, settings: ShapeSettings) -> Range:
    name = f"{spec.name}.{axis}"
    if name not in settings.dimensions:
        raise UnsupportedError(
            f"engine {engine} needs a range for dimension {axis} of input {spec.name} {list(spec.shape)}; "
            f"set targets.T.settings.{engine}.dimensions: {{{name}: [least, usual, largest]}}"
        )
    return settings.dimensions[name]
