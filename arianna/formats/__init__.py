"""A model on disk: written, read back, and read from other programs' files."""

from arianna.formats.table import check_tokenizer, open_model

__all__ = ["check_tokenizer", "open_model"]
