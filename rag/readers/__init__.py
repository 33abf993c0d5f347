"""Files to documents. No reader fetches or includes what a file names."""

from .python import PYTHON_MANUAL, manual_documents
from .reading import VERSION, read_documents
from .text import NoText

__all__ = ["PYTHON_MANUAL", "VERSION", "NoText", "manual_documents", "read_documents"]
