"""The space of settings: presets fit into it, what is given is left alone, and every draw is a run."""

import pytest

from arianna.searching.space import BATCHES, EPOCHS, RATES, REPLAY, SEARCHED, Space, stop_steps
from arianna.training.settings import PRESETS, TrainConfig


class Drawn:
    """A trial that takes the lowest or the highest of everything."""

    def __init__(self, highest: bool):
        self.highest, self.asked = highest, {}

    def suggest_float(self, name, low, high, log=False):
        self.asked[name] = (low, high)
        return high if self.highest else low

    def suggest_categorical(self, name, choices):
        self.asked[name] = choices
        return choices[-1 if self.highest else 0]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("rows", [154, 1000, 40_000])
def test_a_preset_becomes_a_trial_and_its_own_settings_again(name, rows):
    space = Space(rows)
    params = space.preset(name)
    settings = space.settings(params, rows)
    assert set(params) == set(SEARCHED)
    wanted = {key: value for key, value in PRESETS[name].items() if key not in ("max_iters", "eval_interval")}
    assert {key: settings[key] for key in wanted} == wanted
    if PRESETS[name]["max_iters"] * PRESETS[name].get("batch_size", 8) / rows > 2 * EPOCHS[0]:
        assert abs(settings["max_iters"] - PRESETS[name]["max_iters"]) <= 1
    assert RATES[0] <= params["learning_rate"] <= RATES[1] and params["batch_size"] in BATCHES
    assert REPLAY[0] <= params["replay"] <= REPLAY[1]


@pytest.mark.parametrize("highest", [False, True])
def test_every_draw_is_a_run_of_at_least_five_iterations(highest):
    space = Space(20)
    settings = space.settings(space.suggest(Drawn(highest)), rows=20)
    cfg = TrainConfig(base_text_dir="text", **settings)
    assert (
        cfg.max_iters >= 5
        and len(stop_steps(cfg.max_iters)) == 4
        and stop_steps(cfg.max_iters)[-1] == cfg.max_iters
    )


def test_what_the_user_gave_is_neither_drawn_nor_changed():
    space, trial = Space(100, {"loss_on": "answers", "max_iters": 7}), Drawn(highest=True)
    params = space.suggest(trial)
    assert "loss_on" not in trial.asked and "epochs" not in trial.asked
    settings = space.settings(params, rows=100)
    assert settings["loss_on"] == "answers" and settings["max_iters"] == 7
    assert not {"loss_on", "epochs"} & set(space.preset("best"))


@pytest.mark.parametrize("rows", [20, 154, 40_000])
def test_the_presets_are_within_what_is_drawn(rows):
    trial = Drawn(highest=True)
    highest = Space(rows).suggest(trial)["epochs"]
    for name in PRESETS:
        assert EPOCHS[0] <= Space(rows).preset(name)["epochs"] <= highest
    assert trial.asked["epochs"][0] == EPOCHS[0]
