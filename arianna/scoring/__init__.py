"""The scores that tell whether a model is better: losses, answers, intervals, the choice of a checkpoint."""
