"""Is a model better? Losses, answers, intervals, and the choice of a checkpoint."""
