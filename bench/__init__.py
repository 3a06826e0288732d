"""Measurements. Each prints one line of JSON; what is compared runs in turn in one process, and medians of
pairs are told."""
