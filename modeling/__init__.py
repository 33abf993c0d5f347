"""The Folio model. Importing this package makes transformers' Auto classes know it."""

from importlib.metadata import version

import transformers
from transformers.models.auto import modeling_auto

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

__version__ = version("foliogpt")

AUTO_CLASSES = {
    "AutoModel": FolioModel,
    "AutoModelForCausalLM": FolioForCausalLM,
    "AutoModelForMaskedLM": FolioForMaskedLM,
    "AutoModelForSequenceClassification": FolioForSequenceClassification,
    "AutoModelForTokenClassification": FolioForTokenClassification,
    "AutoModelForQuestionAnswering": FolioForQuestionAnswering,
}

# `register` leaves out the tables of class names, by which others know what a class is for: Trainer's label smoothing
# whose labels to shift, transformers' own model tests what labels to give.
NAME_TABLES = {
    "MODEL_MAPPING_NAMES": FolioModel,
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": FolioForCausalLM,
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": FolioForMaskedLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": FolioForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": FolioForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": FolioForQuestionAnswering,
}


def _register() -> None:
    transformers.AutoConfig.register(FolioConfig.model_type, FolioConfig, exist_ok=True)
    FolioConfig.register_for_auto_class()
    for name, model_class in AUTO_CLASSES.items():
        getattr(transformers, name).register(FolioConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(name)
    for table, model_class in NAME_TABLES.items():
        getattr(modeling_auto, table)[FolioConfig.model_type] = model_class.__name__
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
