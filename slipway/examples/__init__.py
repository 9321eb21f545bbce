"""Examples that need nothing of one's own: their data, a trained model and parameters; each imported when asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from slipway.errors import BadInputError, nearest
from slipway.examples.recipe import Example, Reporter

__all__ = ["EXAMPLES", "Example", "Reporter", "example", "example_of"]

EXAMPLES = {
    "digits": "slipway.examples.digits:EXAMPLE",
    "cifar10": "slipway.examples.cifar10:EXAMPLE",
    "fashion": "slipway.examples.fashion:EXAMPLE",
    "ecg5000": "slipway.examples.ecg5000:EXAMPLE",
}


def example(name: str) -> Example:
    """The example called ``name``.

    Raises:
        BadInputError: there is none; those that exist are told.
    """
    if name not in EXAMPLES:
        raise BadInputError(f"unknown example {name!r}{nearest(name, EXAMPLES)}; known: {', '.join(EXAMPLES)}")
    module, _, attribute = EXAMPLES[name].partition(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Example)
    return found


def example_of(model: str | None = None, data: Path | None = None) -> Example | None:
    """The example whose model has the URI ``model``, or to whose data the directory ``data`` belongs; None if none."""
    for found in map(example, EXAMPLES):
        if found.model_uri == model or (data is not None and found.holds(data)):
            return found
    return None
