"""A model on disk: written, read back, and read from other programs' files."""

from arianna.formats.table import check_tokenizer, find_tokenizer, open_model, open_tokenizer

__all__ = ["check_tokenizer", "find_tokenizer", "open_model", "open_tokenizer"]
