"""What a search tells of itself: search.json for the report, and how its numbers are spelled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arianna.searching import study as studies
from arianna.searching.folds import FOLDS
from arianna.searching.job import Chosen
from arianna.system.files import write_atomic
from arianna.training import presets

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

NAME = "search.json"
FEWEST = 10  # complete trials, to say which settings mattered


def is_finished(run: Path) -> bool:
    """Whether a run's folder holds a search whose final model is there."""
    try:
        kept = json.loads((run / NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(kept, dict) and kept.get("finished") is True and (run / "choice.json").is_file()


def write(
    run: Path, study: optuna.Study, facts: Mapping[str, Any], chosen: Chosen | None = None, seeds: int = 0
) -> None:
    """Write search.json as things stand. `seeds`: of the final model, once it is there."""
    trials = [entry(t) for t in studies.trials_of(study, *studies.DONE) if studies.told(t)]
    told: dict[str, Any] = {
        **facts,
        "finished": seeds > 0,
        "folds": FOLDS,
        "trials": trials,
        "base": {"answers": next((t["base"] for t in trials if t["base"] is not None), None)},
        "presets": {name: of_preset(trials, name) for name in presets.PRESETS},
        "importances": importances(study),
    }
    if chosen is not None:
        told["chosen"] = {
            "number": chosen.number,
            "params": chosen.params,
            "value": chosen.value,
            "seeds": seeds,
            "soup": seeds > 1,
            "stop": chosen.stop,
        }
        told["expected_gain"] = chosen.base - chosen.value
    write_atomic(run / NAME, json.dumps(told, indent=1, allow_nan=False).encode())


def entry(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as the report reads it. `value`: the mean loss of the folds' answers, as the guard leaves them."""
    kept, state = studies.told(trial), trial.state.name.lower()
    value = kept["base"] + trial.value if state == "complete" and kept["base"] is not None else None
    names = ("answers", "base", "forgetting", "seen", "settings", "stop")
    told = {
        "seconds": kept["at"],
        "worker_seconds": kept["worker_seconds"],
        **{name: kept[name] for name in names},
    }
    return {
        "number": trial.number,
        "value": value,
        "state": state,
        "params": trial.params,
        "preset": trial.user_attrs.get("preset"),
        **told,
    }


def of_preset(trials: list[dict[str, Any]], name: str) -> float | None:
    """A preset's value; where it was given up, its mean over the folds that it saw is in its entry."""
    return next((t["value"] for t in trials if t["preset"] == name), None)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each setting mattered, by PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255); {} of few trials."""
    import optuna

    complete = studies.trials_of(study, optuna.trial.TrialState.COMPLETE)
    if len(complete) < FEWEST:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
            return {
                name: float(share)
                for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
            }
        except (ValueError, RuntimeError):  # all values are equal, say
            return {}


def spelled(params: Mapping[str, Any]) -> str:
    """Settings as a line of words."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )


def lasting(seconds: float) -> str:
    """A time as people say it."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
