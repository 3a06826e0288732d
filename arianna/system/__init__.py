"""The machine: files, flags, processes, memory. Knows no model."""
