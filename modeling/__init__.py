"""The Folio model. Importing this package makes transformers' Auto classes know it."""

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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
from .peft_targets import register as register_peft_targets
from .presets import PRESETS, SIZES, preset_config

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
    # Trainer's label smoothing shifts the labels of the classes named in this table only.
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[FolioConfig.model_type] = FolioForCausalLM.__name__
    register_peft_targets(FolioConfig.model_type)


_register()

__all__ = [
    "PRESETS",
    "SIZES",
    "FolioConfig",
    "FolioForCausalLM",
    "FolioForMaskedLM",
    "FolioForQuestionAnswering",
    "FolioForSequenceClassification",
    "FolioForTokenClassification",
    "FolioModel",
    "FolioPreTrainedModel",
    "preset_config",
]
