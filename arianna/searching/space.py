"""The settings that a search may change, their bounds, and how a trial's parameters become a trainer's.

Standard library only: a trial is anything with Optuna's suggest_float and suggest_categorical.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arianna.training.settings import PRESETS

RATES = (1e-5, 2e-3)  # peak; Muon takes ten times as much for the layers' matrices
EPOCHS = (0.5, 64.0)  # passes over the conversations; the gentle preset makes 52 over the shipped ones
BATCHES = (4, 8, 16, 32)
REPLAY = (0.0, 0.75)  # beyond three quarters most of the time goes to what the base knows
DECAY = (0.01, 1.0)
CONTRASTS = (0.0, 0.1, 0.5)
CHOICES = {
    **{"batch_size": BATCHES, "loss_on": ("all", "answers"), "schedule": ("cosine", "wsd")},
    **{"optimizer": ("adamw", "muon"), "question_contrast": CONTRASTS},
}
SEARCHED = ("learning_rate", "epochs", "replay", "weight_decay", *CHOICES)
USUAL = {  # what a preset leaves open
    **{"batch_size": 8, "replay": 0.0, "loss_on": "all", "weight_decay": 0.1},
    **{"schedule": "cosine", "optimizer": "adamw", "question_contrast": 0.0},
}
STOPS = (0.4, 0.6, 0.8, 1.0)  # shares of a run's iterations after which it is scored, and may be ended
FEWEST = 5  # iterations of a run: fewer have no stops between


@dataclass(frozen=True)
class Space:
    """The settings that a search may try. `rows`: of all conversations; `fixed`: by names of TrainConfig."""

    rows: int
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The parameters that are searched."""
        settled = {*self.fixed, *(["epochs"] if "max_iters" in self.fixed else [])}
        return [name for name in SEARCHED if name not in settled]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The parameters of a trial."""
        most = max(EPOCHS[1], *(self.epochs(preset) for preset in PRESETS.values()))
        ranges = {
            "learning_rate": RATES,
            "epochs": (EPOCHS[0], most),
            "replay": REPLAY,
            "weight_decay": DECAY,
        }
        return {
            name: trial.suggest_categorical(name, CHOICES[name])
            if name in CHOICES
            else trial.suggest_float(name, *ranges[name], log=ranges[name][0] > 0)  # 0 has no logarithm
            for name in self.names
        }

    def epochs(self, settings: Mapping[str, Any]) -> float:
        """Epochs of the conversations that a run with these settings takes."""
        settings = {**USUAL, **settings}
        taken = settings["max_iters"] * settings["batch_size"] * (1 - settings["replay"])
        return max(EPOCHS[0], taken / self.rows)

    def preset(self, name: str) -> dict[str, Any]:
        """The parameters by which a preset becomes a trial."""
        settings = {**USUAL, **PRESETS[name], **self.fixed}
        settings["epochs"] = self.epochs(settings)
        return {name: settings[name] for name in self.names}

    def settings(self, params: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """A trainer's settings, by the names of TrainConfig, for a run over so many rows."""
        settings = {**USUAL, **params, **self.fixed}
        epochs = settings.pop("epochs", None)
        if epochs is not None:
            own = settings["batch_size"] * (1 - settings["replay"])
            settings["max_iters"] = max(FEWEST, round(epochs * rows / own))
        return settings


def stop_steps(max_iters: int) -> list[int]:
    """The iterations after which a run is scored, rising; the last is its end."""
    return sorted({max(1, round(share * max_iters)) for share in STOPS})
