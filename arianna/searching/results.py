"""What a search tells of itself: search.json for the report, and how its numbers are spelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from arianna.searching import job as jobs
from arianna.searching import study as studies
from arianna.searching.folds import FOLDS
from arianna.searching.job import Chosen
from arianna.system.files import write_atomic
from arianna.training import presets

NAME = "search.json"
FEWEST = 10  # complete trials, to say which settings mattered


def is_finished(run: Path) -> bool:
    """Whether a run's folder holds a search whose final model is there."""
    return bool((jobs.get(run / NAME) or {}).get("finished")) and (run / "choice.json").is_file()


def write(
    run: Path, study: optuna.Study, facts: Mapping[str, Any], chosen: Chosen | None = None, seeds: int = 0
) -> None:
    """Write search.json as things stand. `seeds`: those in the final model, once it is there."""
    trials = [entry(t, facts["began"]) for t in studies.trials_of(study, *studies.DONE) if studies.told(t)]
    complete = [t for t in trials if t["state"] == "complete"]
    values = {
        name: next((t["value"] for t in complete if t["preset"] == name), None) for name in presets.PRESETS
    }
    found = {**facts, "finished": seeds > 0, "folds": FOLDS, "trials": trials, "presets": values}
    found |= {
        "base": {"answers": complete[0]["base"] if complete else None},
        "importances": importances(study),
    }
    if chosen is not None:
        told = {"number": chosen.number, "params": chosen.params, "value": chosen.value, "stop": chosen.stop}
        found["chosen"] = {**told, "seeds": seeds, "soup": seeds > 1}
        found["expected_gain"] = chosen.base - chosen.value
    write_atomic(run / NAME, json.dumps(found, indent=1, allow_nan=False).encode())


def entry(trial: FrozenTrial, began: float) -> dict[str, Any]:
    """A trial as the report reads it. `value`: mean loss of the folds' answers, as the guard leaves them."""
    kept, state = studies.told(trial), trial.state.name.lower()
    value = kept["base"] + trial.value if trial.state == TrialState.COMPLETE else None
    told = {"number": trial.number, "value": value, "state": state, "params": trial.params}
    times = {"seconds": kept["time"] - began, "worker_seconds": kept["seconds"]}
    rest = {name: kept[name] for name in ("answers", "base", "forgetting", "seen", "settings", "stop")}
    return {**told, **times, "preset": trial.user_attrs.get("preset"), **rest}


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each setting mattered, by PED-ANOVA (Watanabe et al. 2023, 2304.10255); {} of few trials."""
    if len(studies.trials_of(study, TrialState.COMPLETE)) < FEWEST:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    with studies.quiet():
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all values are equal, say
            return {}
    return {name: float(share) for name, share in shares.items()}


def spelled(params: Mapping[str, Any]) -> str:
    """Settings as a line of words."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )


def lasting(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
