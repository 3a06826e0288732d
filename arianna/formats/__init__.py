"""A model on disk: written, read back, and read from other programs' files."""
