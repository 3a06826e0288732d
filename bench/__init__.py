"""Measurements. Each prints a line of JSON for each result; what is compared runs in processes of its own
that are asked in turn, and medians of pairs are told (see bench/pairs.py)."""
