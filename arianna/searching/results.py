"""The results of a search: search.json for the report, and how its numbers are spelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from arianna.searching import study as studies
from arianna.searching.folds import FOLDS
from arianna.searching.job import Chosen
from arianna.system.files import json_object, write_atomic
from arianna.training.settings import PRESETS

NAME = "search.json"
FEWEST = 10  # complete trials, to say which settings mattered


def is_finished(run: Path) -> bool:
    """Whether a run's folder holds a search whose final model is there."""
    return bool((json_object(run / NAME) or {}).get("finished")) and (run / "choice.json").is_file()


def write(
    run: Path, study: optuna.Study, facts: Mapping[str, Any], chosen: Chosen | None = None, seeds: int = 0
) -> None:
    """Write search.json as things stand. `seeds`: how many are in the final model, once it is there."""
    ended = [trial for trial in studies.trials_of(study, *studies.DONE) if studies.summary_of(trial)]
    trials = [entry(trial, facts["began"]) for trial in ended]
    complete = [t for t in trials if t["state"] == "complete"]
    reached = {t["preset"]: t["value"] for t in complete}
    search = {**facts, "finished": seeds > 0, "folds": FOLDS, "trials": trials}
    search["presets"] = {name: reached.get(name) for name in PRESETS}
    search["base"] = {"answers": complete[0]["base"] if complete else None}
    search["importances"] = importances(study)
    if chosen is not None:
        best = {name: getattr(chosen, name) for name in ("number", "params", "value", "stop")}
        search["chosen"] = {**best, "seeds": seeds, "soup": seeds > 1}
        search["expected_gain"] = chosen.base - chosen.value
    write_atomic(run / NAME, json.dumps(search, indent=1, allow_nan=False).encode())


def entry(trial: FrozenTrial, began: float) -> dict[str, Any]:
    """A trial as the report reads it. `value`: mean loss of the folds' answers, as the guard leaves them."""
    summary, state = studies.summary_of(trial), trial.state.name.lower()
    value = summary["base"] + trial.value if trial.state == TrialState.COMPLETE else None
    facts = {"number": trial.number, "value": value, "state": state, "params": trial.params}
    times = {"seconds": summary["time"] - began, "worker_seconds": summary["seconds"]}
    names = ("answers", "base", "forgetting", "seen", "settings", "stop")
    return {**facts, **times, "preset": trial.user_attrs.get("preset")} | {n: summary[n] for n in names}


def importances(study: optuna.Study) -> dict[str, float]:
    """The importance of each setting by PED-ANOVA (Watanabe et al. 2023, 2304.10255); {} for few trials."""
    if len(studies.trials_of(study, TrialState.COMPLETE)) < FEWEST:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    with studies.quiet():
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all values may be equal
            return {}
    return {name: float(share) for name, share in shares.items()}


def spelled(params: Mapping[str, Any]) -> str:
    """Settings as a line of words."""
    rounded = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in params.items()}
    return ", ".join(f"{name} {value}" for name, value in rounded.items())


def lasting(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
