import math

import pytest
import torch
from helpers import build

from arianna.scoring import choose
from arianna.scoring.choose import Point, judge

BASE = Point(0, 0.0, 4.0, {"val_samples": 3.0, "val_text": 3.5})


def point(step: int, loss: float, samples: float = 3.0, text: float = 3.5, blend: float = 1.0) -> Point:
    return Point(step, blend, loss, {"val_samples": samples, "val_text": text})


def never(best, share):
    raise AssertionError("no blend should be scored")


def test_the_lowest_answer_loss_is_chosen_and_never_the_base():
    points = [BASE, point(100, 4.4), point(200, 4.2), point(300, 4.2)]
    assert choose.choose(points, 0.1, None, never).used.step == 200


def test_forgetting_is_the_largest_rise():
    assert point(1, 3.0, 3.05, 3.7).forgetting(BASE) == pytest.approx(0.2)
    assert Point(1, 1.0, 3.0, {}).forgetting(BASE) == 0.0


def line(best: Point, share: float) -> Point:
    """Losses that move in a straight line from the base to the checkpoint."""
    texts = {k: v + share * (best.base_text[k] - v) for k, v in BASE.base_text.items()}
    return Point(best.step, share, BASE.answer_loss + share * (best.answer_loss - BASE.answer_loss), texts)


def test_a_checkpoint_that_forgets_too_much_is_blended_within_the_budget():
    chosen = choose.choose([BASE, point(100, 3.0, 3.3)], 0.1, None, line)
    assert chosen.best.blend == 1.0 and chosen.used.blend == 0.3 and len(chosen.tried) == len(choose.BLENDS)
    assert chosen.used.forgetting(BASE) <= 0.1 < line(chosen.best, 0.4).forgetting(BASE)


def test_within_the_budget_nothing_is_blended():
    assert choose.choose([BASE, point(100, 3.0, 3.09)], 0.1, None, never).used.blend == 1.0


def test_a_blend_that_is_given_is_taken():
    assert choose.choose([BASE, point(100, 3.0, 3.3)], 0.1, 0.7, line).used.blend == 0.7


def test_blending_goes_from_the_base_to_the_tuned_model():
    base, tuned = build(seed=1), build(seed=2)
    for share in (0.0, 0.25):
        mixed = choose.blended(base, tuned, share)
        for name, weight in mixed.state_dict().items():
            a, b = base.state_dict()[name], tuned.state_dict()[name]
            assert torch.allclose(weight, a + share * (b - a), atol=1e-6)
        assert mixed.output.weight is mixed.tok_embeddings.weight
    assert torch.equal(choose.blended(base, tuned, 1.0).norm.weight, tuned.norm.weight)


@pytest.mark.parametrize(
    ("interval", "forgetting", "word"),
    [
        ((-0.5, -0.1), 0.05, "better"),
        ((-0.5, -0.1), 0.15, "no clear change"),
        ((-0.5, 0.1), 0.05, "no clear change"),
        ((-0.5, 0.1), 0.15, "worse"),
        ((0.1, 0.5), 0.05, "worse"),
        ((0.1, 0.5), 0.15, "worse"),
        (None, 0.05, "no clear change"),
        (None, 0.15, "worse"),
        ((0.0, 0.0), 0.0, "no clear change"),
    ],
)
def test_the_truth_table(interval, forgetting, word):
    assert judge(-0.3, interval, forgetting, 0.1) == word
    assert judge(math.nan, interval, forgetting, 0.1) == "worse"


def test_the_last_line_of_a_step_counts_and_a_cut_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 0, "val_loss": 4.0}\n{"step": 5, "loss": 1.5}\n{"step": 5, "val_loss": 3.0}\n'
        '{"step": 5, "val_loss": 2.0}\n{"step": 10, "val_l'
    )
    log = choose.read_log(tmp_path)
    assert log == {0: {"step": 0, "val_loss": 4.0}, 5: {"step": 5, "loss": 1.5, "val_loss": 2.0}}
    assert [p.step for p in choose.evaluations(tmp_path)] == [0, 5]


def test_a_log_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0, "val_loss": 4.0}\n')
    with pytest.raises(ValueError, match="no evaluation of the base and of a checkpoint"):
        choose.evaluations(tmp_path)
