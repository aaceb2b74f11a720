"""What the front end knows of the model, and whether a request may go to the engine."""

from collections.abc import Mapping

from .spec import Shape, Spec

_model: Shape | None = None


def learn(model: Shape | None) -> None:
    """Tell this process which shape the vectors of a request must have."""
    global _model
    _model = model


def admit(extra: Mapping[str, object] | None) -> None:
    """Raise `CmrmError`, a ValueError, for a request that can't be answered as it asks for."""
    spec = Spec.of(extra)
    if spec is not None and _model is not None:
        spec.check_fits(_model)
