"""Settings of a fine-tune by name. docs/defaults.md has the measurements that they come from."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {  # the user's flags win over them
    "gentle": {"learning_rate": 1e-5, "max_iters": 1000},
    # a tenth of the rows at forty times the rate; half of them replayed, so that the base keeps what it knows
    "best": {"learning_rate": 4e-4, "max_iters": 50, "batch_size": 16, "replay": 0.5, "eval_interval": 10},
}
NOTE = "--preset=best takes a tenth of the rows; docs/defaults.md compares what the two presets reached."
