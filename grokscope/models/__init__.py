"""Families of pure functions with an anatomy: deep linear nets, embedding MLPs, one-layer transformers."""

from __future__ import annotations

from grokscope.errors import GrokscopeError
from grokscope.models.anatomy import MapView, Model, Params, Part, as_float64
from grokscope.models.deep_linear import DeepLinear, DeepLinearSettings
from grokscope.models.mlp import MLP, MLPSettings
from grokscope.models.transformer import Transformer, TransformerSettings

ModelSettings = MLPSettings | TransformerSettings | DeepLinearSettings

MODEL_SETTINGS: dict[str, type[ModelSettings]] = {
    "mlp": MLPSettings,
    "transformer": TransformerSettings,
    "deep-linear": DeepLinearSettings,
}
"""``model.family`` in a recipe → the settings it takes."""


def build_model(
    settings: ModelSettings, *, n_tokens: int | None, n_inputs: int | None, n_classes: int
) -> Model:
    """The model of ``settings`` for a task of ``n_tokens`` residues or ``n_inputs`` features.

    Raises:
        GrokscopeError: sizes that do not fit, or a family that does not take the task's inputs.
    """
    if isinstance(settings, DeepLinearSettings):
        if n_inputs is None:
            raise GrokscopeError(
                "building a model: model.family 'deep-linear' was given a task of operand pairs, expected "
                "feature inputs (task.name 'completion'); from one-hot operands a linear map cannot learn "
                "modular arithmetic"
            )
        return DeepLinear(settings, n_inputs, n_classes)
    if n_tokens is None:
        raise GrokscopeError(
            f"building a model: model.family {settings.family!r} was given a task of feature inputs, expected "
            "operand pairs (task.name 'modular')"
        )
    family = MLP if isinstance(settings, MLPSettings) else Transformer
    return family(settings, n_tokens, n_classes)  # pyright: ignore[reportArgumentType]


__all__ = [
    "MLP",
    "MODEL_SETTINGS",
    "DeepLinear",
    "DeepLinearSettings",
    "MLPSettings",
    "MapView",
    "Model",
    "ModelSettings",
    "Params",
    "Part",
    "Transformer",
    "TransformerSettings",
    "as_float64",
    "build_model",
]
