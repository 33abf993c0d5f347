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

transformers.AutoConfig.register(FolioConfig.model_type, FolioConfig, exist_ok=True)
FolioConfig.register_for_auto_class()
for auto_class, model_class in AUTO_CLASSES.items():
    getattr(transformers, auto_class).register(FolioConfig, model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class)

__all__ = [
    "PRESETS", "SIZES", "FolioConfig", "FolioForCausalLM", "FolioForMaskedLM", "FolioForQuestionAnswering",
    "FolioForSequenceClassification", "FolioForTokenClassification", "FolioModel", "FolioPreTrainedModel",
    "preset_config",
]  # fmt: skip
