"""Families of pure functions with an anatomy: deep linear nets, MLPs on residues or features, transformers."""

from __future__ import annotations

import math
from dataclasses import replace

from grokscope.errors import GrokscopeError
from grokscope.models.anatomy import Linearised, MapView, Model, Params, Part, Pullback, as_float64
from grokscope.models.composed import Composed, ComposedSettings
from grokscope.models.deep_linear import DeepLinear, DeepLinearSettings
from grokscope.models.diagonal import Diagonal, DiagonalSettings
from grokscope.models.feature_mlp import FeatureMLP, FeatureMLPSettings
from grokscope.models.mlp import MLP, MLPSettings
from grokscope.models.named import named_tensors, tensor_factors
from grokscope.models.transformer import Transformer, TransformerSettings
from grokscope.models.weights_only import WeightsOnly, WeightsOnlySettings

ModelSettings = (
    MLPSettings
    | TransformerSettings
    | ComposedSettings
    | DeepLinearSettings
    | DiagonalSettings
    | FeatureMLPSettings
    | WeightsOnlySettings
)

MODEL_SETTINGS: dict[str, type[ModelSettings]] = {
    "mlp": MLPSettings,
    "transformer": TransformerSettings,
    "composed": ComposedSettings,
    "deep-linear": DeepLinearSettings,
    "diagonal": DiagonalSettings,
    "feature-mlp": FeatureMLPSettings,
    "weights": WeightsOnlySettings,
}
"""``model.family`` in a recipe → the settings it takes."""


def build_model(
    settings: ModelSettings,
    *,
    n_tokens: int | None,
    n_inputs: int | None,
    n_classes: int,
    temperature: float = 1.0,
) -> Model:
    """The model of ``settings`` for a task of ``n_tokens`` residues or ``n_inputs`` features.

    Args:
        temperature: divides the logits.

    Raises:
        GrokscopeError: sizes that do not fit, or a family that does not take the task's inputs.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise GrokscopeError(
            f"building a model: a temperature of {temperature} was given, expected one above 0"
        )
    if temperature != 1.0:
        if isinstance(settings, WeightsOnlySettings):
            raise GrokscopeError(
                f"building a model: a temperature of {temperature} was given to model.family {settings.family!r}, "
                "expected 1, or a family whose logits are known"
            )
        settings = replace(settings, output_scale=settings.output_scale / temperature)
    if isinstance(settings, WeightsOnlySettings):
        return WeightsOnly(settings, n_tokens, n_classes)
    if not n_classes:
        raise GrokscopeError(
            f"building a model: model.family {settings.family!r} was given a task that is not known, expected "
            "a known one, or model.family 'weights'"
        )
    if isinstance(settings, DeepLinearSettings):
        if n_inputs is None:
            raise GrokscopeError(
                "building a model: model.family 'deep-linear' was given a task of operand pairs, expected "
                "feature inputs (task.name 'completion'); from one-hot operands a linear map cannot learn "
                "modular arithmetic"
            )
        return DeepLinear(settings, n_inputs, n_classes)
    if isinstance(settings, DiagonalSettings):
        if n_inputs is None:
            raise GrokscopeError(
                "building a model: model.family 'diagonal' was given a task of operand pairs, expected feature inputs "
                "(task.name 'regression')"
            )
        return Diagonal(settings, n_inputs, n_classes)
    if isinstance(settings, FeatureMLPSettings):
        if n_inputs is None:
            raise GrokscopeError(
                "building a model: model.family 'feature-mlp' was given a task of operand pairs, expected feature "
                "inputs (task.name 'parity'), or model.family 'mlp'"
            )
        return FeatureMLP(settings, n_inputs, n_classes)
    if n_tokens is None:
        raise GrokscopeError(
            f"building a model: model.family {settings.family!r} was given a task of feature inputs, expected "
            "operand pairs (task.name 'modular')"
        )
    if isinstance(settings, MLPSettings):
        return MLP(settings, n_tokens, n_classes)
    if isinstance(settings, ComposedSettings):
        return Composed(settings, n_tokens, n_classes)
    return Transformer(settings, n_tokens, n_classes)


__all__ = [
    "MLP",
    "MODEL_SETTINGS",
    "Composed",
    "ComposedSettings",
    "DeepLinear",
    "DeepLinearSettings",
    "Diagonal",
    "DiagonalSettings",
    "FeatureMLP",
    "FeatureMLPSettings",
    "Linearised",
    "MLPSettings",
    "MapView",
    "Model",
    "ModelSettings",
    "Params",
    "Part",
    "Pullback",
    "Transformer",
    "TransformerSettings",
    "WeightsOnly",
    "WeightsOnlySettings",
    "as_float64",
    "build_model",
    "named_tensors",
    "tensor_factors",
]
