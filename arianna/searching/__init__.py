"""A night of trials: the space of settings, folds, workers, the study, and the model that comes of it."""
