"""The end of a search: what is averaged, what the guard leaves of the final model, what is not done again."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from arianna.searching import ending
from arianna.searching import job as jobs
from arianna.searching.budget import Cost
from arianna.searching.ending import Ending
from arianna.searching.job import Chosen
from arianna.training.settings import TrainConfig


def end_of(folder: Path, soup: float = 4.0) -> Ending:
    """The end of a search of which an average of weights scores so much on each fold."""
    chosen = Chosen(0, {"learning_rate": 1e-4, "epochs": 2.0}, {}, 4.0, 4.2, 0.8, 2, 2)
    bench = SimpleNamespace(soup=lambda unit, files: {"answers": soup})
    log = SimpleNamespace(say=lambda text: None, record=lambda **facts: None)
    cost = Cost(rows=100, row_tokens=60.0, context=64, text_tokens=100)
    return Ending(chosen, SimpleNamespace(), cost, bench, folder, TrainConfig(base="base.pt"), log, None)


@pytest.mark.parametrize(("soup", "wins"), [(3.9, True), (4.05, False)])
def test_weights_are_averaged_only_where_that_scores_better_than_one_by_one(tmp_path, soup, wins):
    answers = {f"{fold}_{seed}": {"answers": 4.0} for fold in "01" for seed in (1, 2)}
    assert end_of(tmp_path, soup).average_wins([1, 2], ["0", "1"], answers) is wins


def test_a_unit_is_done_once_its_weights_and_its_answer_are_there(tmp_path):
    end = end_of(tmp_path)
    unit = end.unit("0", 1337)
    (tmp_path / "end").mkdir()
    assert not end.is_done("0_1337", unit)
    end.weights("0", 1337).write_bytes(b"weights")
    assert not end.is_done("0_1337", unit)
    jobs.put(tmp_path / "end/0_1337.json", {"diverged": "loss nan"})
    assert not end.is_done("0_1337", unit)
    jobs.put(tmp_path / "end/0_1337.json", {"step": unit.stop, "answers": 4.0})
    assert end.is_done("0_1337", unit) and unit.stop == round(0.8 * unit.settings["max_iters"])


@pytest.mark.parametrize(("budget", "share"), [(1.0, 1.0), (0.101, 0.5), (0.001, 0.1)])
def test_the_final_model_is_blended_until_it_forgets_no_more_than_the_budget(monkeypatch, budget, share):
    base = SimpleNamespace(args=None)

    def loss(model, rows, most):
        return SimpleNamespace(loss=4.0 if model is base else 4.0 + 0.2 * model)

    monkeypatch.setattr(ending, "base_text_rows", lambda cfg, args: {"val_text": []})
    monkeypatch.setattr(ending, "answer_loss", loss)
    monkeypatch.setattr(ending.choose, "blended", lambda base, tuned, share: share)
    assert ending.share_within(base, base, TrainConfig(base="base.pt"), budget) == share
