"""The Folio model. Importing this package registers it with transformers' Auto classes."""

from importlib.metadata import version

import transformers

from .configuration_folio import FolioConfig
from .modeling_folio import (
    FolioForCausalLM,
    FolioForMaskedLM,
    FolioForQuestionAnswering,
    FolioForSequenceClassification,
    FolioForTokenClassification,
    FolioModel,
    FolioPreTrainedModel,
)
from .presets import PRESETS, SIZES, preset_config

__version__ = version("foliogpt")

AUTO_CLASSES = {
    "AutoModel": FolioModel,
    "AutoModelForCausalLM": FolioForCausalLM,
    "AutoModelForMaskedLM": FolioForMaskedLM,
    "AutoModelForSequenceClassification": FolioForSequenceClassification,
    "AutoModelForTokenClassification": FolioForTokenClassification,
    "AutoModelForQuestionAnswering": FolioForQuestionAnswering,
}


def _register() -> None:
    transformers.AutoConfig.register(FolioConfig.model_type, FolioConfig, exist_ok=True)
    FolioConfig.register_for_auto_class()
    for name, model_class in AUTO_CLASSES.items():
        getattr(transformers, name).register(FolioConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(name)


_register()

__all__ = [
    "PRESETS", "SIZES", "FolioConfig", "FolioForCausalLM", "FolioForMaskedLM", "FolioForQuestionAnswering",
    "FolioForSequenceClassification", "FolioForTokenClassification", "FolioModel", "FolioPreTrainedModel",
    "preset_config",
]  # fmt: skip
