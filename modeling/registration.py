"""Entries for Folio models in the tables in which other libraries look up what a model can do.

This file is uploaded with each checkpoint, so a model behaves the same whether the package is installed or not. It
makes no entries for the Auto classes: a second checkpoint would then run the code of the first.
"""

from transformers.models.auto import modeling_auto

from .configuration_folio import AUTO_MAP, FolioConfig
from .packed_attention import register as register_packed_attention
from .peft_targets import register as register_peft_targets

# Tables of class names. Trainer's label smoothing shifts the labels of the causal models that are listed here, and
# pipelines warn about a model that is not.
NAME_TABLES = {
    "MODEL_MAPPING_NAMES": "AutoModel",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "AutoModelForCausalLM",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "AutoModelForMaskedLM",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "AutoModelForSequenceClassification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "AutoModelForTokenClassification",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "AutoModelForQuestionAnswering",
}


def register() -> None:
    """Add the model type to transformers' tables now, and to PEFT's now or when PEFT is imported."""
    for table, auto_class in NAME_TABLES.items():
        getattr(modeling_auto, table)[FolioConfig.model_type] = AUTO_MAP[auto_class].partition(".")[2]
    register_peft_targets(FolioConfig.model_type)
    register_packed_attention()
