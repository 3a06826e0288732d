"""One training run: its settings, state, folder and devices."""
