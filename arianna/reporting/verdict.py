"""What is said of a run in the morning: a word for programs, a sentence for people, and why it is not
better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arianna.scoring.bootstrap import FEWEST
from arianna.scoring.choose import Choice, Point, Word, judge

CLEAR = 0.02  # nats a token: noise of the held-out loss from one evaluation to the next is less
GUESSING = (
    1.0  # nats a token under ln V, what guessing costs: a base that is nearer has learned nothing that helps
)
FOREIGN = 0.25  # nats a token above ln V: new weights are nearer; only a model of other text errs by more
CHANCE = 0.5  # share of pairs in which an answer of a model that ignores questions fits its own one
BY_HEART = 0.5  # nats a token: the losses on two halves of unseen conversations differ by less
STILL = 0.05  # nats a token: a training loss that changed less has not moved; it is noisier
BEGINNING = {"better": "Better", "no clear change": "No clear change", "worse": "Worse"}


@dataclass(frozen=True)
class Listening:
    """Shares of pairs in which answers fit their own questions, and how much they rose; None where it
    cannot be told.
    """

    base: float | None
    tuned: float | None
    interval: tuple[float, float] | None  # 95%, of the tuned model's share
    rise: tuple[float, float] | None  # 95%, of tuned minus base


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on. Losses are in nats a token."""

    choice: Choice
    points: Sequence[Point]  # base and checkpoints, by step
    training: Mapping[int, float]  # loss by step
    losses: tuple[float, float]  # held-out answers: base, tuned
    interval: tuple[float, float] | None  # 95%, of tuned minus base; None if there are too few conversations
    non_words: tuple[float | None, float | None]  # percent: base, tuned
    listening: Listening  # share of pairs in which answers fit their own questions
    conversations: tuple[int, int]  # trained on, held out
    max_forgetting: float

    @property
    def forgetting(self) -> float:
        return self.choice.used.forgetting(self.choice.base)


@dataclass(frozen=True)
class Verdict:
    """`use` is the file to use; `reason` says why a run is not better, and is empty if it is."""

    word: Word
    sentence: str
    reason: str
    notes: tuple[str, ...]
    use: str


def verdict(evidence: Evidence, checkpoint: str, base: str) -> Verdict:
    """The word is `choose.judge`'s. A run that is not better recommends the base. `checkpoint`, `base`:
    paths, as they are to be typed.

    | word | sentence | file |
    |---|---|---|
    | better | Better: ... | the checkpoint |
    | no clear change, there is no interval | Cannot tell: ... | the base |
    | no clear change | No clear change: ... | the base |
    | worse | Worse: ... | the base |
    """
    word = judge(
        evidence.losses[1] - evidence.losses[0],
        evidence.interval,
        evidence.forgetting,
        evidence.max_forgetting,
    )
    beginning = "Cannot tell" if word == "no clear change" and evidence.interval is None else BEGINNING[word]
    better = word == "better"
    end = f"Use {checkpoint} ({origin(evidence.choice)})." if better else f"Keep {base}."
    sentence = f"{beginning}: {'; '.join(changes(evidence))}. {end}"
    return Verdict(
        word, sentence, "" if better else why_not(evidence), notes(evidence), checkpoint if better else base
    )


def changes(evidence: Evidence) -> list[str]:
    """What became of answers, their fit to questions, base text and words."""
    held_out = evidence.conversations[1]
    interval = f"{held_out} conversations are too few for an interval"
    if evidence.interval is not None:
        interval = "95%: {} to {}".format(*(signed(x) for x in evidence.interval))
    parts = [f"held-out answers went from {from_to(*evidence.losses)} nats ({interval})", *heard(evidence)]
    texts = [f"base text {from_to(*losses)}" for losses in [base_text(evidence.choice)] if losses]
    parts += texts or ["base text was not measured"]
    before, after = evidence.non_words
    return (
        parts
        if before is None or after is None
        else [*parts, f"invented words {before:.1f}% to {after:.1f}%"]
    )


def heard(evidence: Evidence) -> list[str]:
    """How often answers fit their questions; where they only got likelier, that they listen no better is
    said with it.
    """
    listening, likelier = evidence.listening, evidence.losses[1] < evidence.losses[0]
    if listening.base is None or listening.tuned is None:
        return []
    beginning = ""
    if likelier and listening.tuned <= listening.base:
        beginning = "but it listens no better: "
    elif likelier and (listening.rise is None or listening.rise[0] <= 0):
        beginning = "whether it listens better is not sure: "
    return [
        f"{beginning}it fits answers to questions in {listening.tuned:.0%} of pairs, before "
        f"{listening.base:.0%}; 50% is chance"
    ]


def base_text(choice: Choice) -> tuple[float, float] | None:
    """Loss of the base and of what is used on the base text that rose most."""
    name = worst_text(choice)
    return None if name is None else (choice.base.base_text[name], choice.used.base_text[name])


def worst_text(choice: Choice) -> str | None:
    """The name of the base text on which what is used forgot most."""
    shared = [name for name in choice.used.base_text if name in choice.base.base_text]
    return max(
        shared, key=lambda name: choice.used.base_text[name] - choice.base.base_text[name], default=None
    )


def origin(choice: Choice) -> str:
    """Where the weights that are used come from."""
    if choice.used.blend == 1:
        return f"iteration {choice.used.step}"
    forgot = choice.best.forgetting(choice.base)
    blended = f"iteration {choice.used.step} blended with the base, {choice.used.blend:.0%} of the way"
    return f"{blended}; unblended it forgot {forgot:.2f} nats"


def from_to(before: float, after: float) -> str:
    """Two losses, with a third decimal where two would hide a change."""
    digits = 2 if abs(after - before) >= 0.01 or before == after else 3
    return f"{before:.{digits}f} to {after:.{digits}f}"


def signed(x: float) -> str:
    """A difference with its sign, with a third decimal where two would hide it; zero has no sign."""
    text = f"{x:+.3f}" if abs(x) < 0.01 else f"{x:+.2f}"
    return text if float(text) else "0.00"


# ---- what the base is like, before anything runs ----


def about_base(held_out: float, trained: float, vocab_size: int, spelled: float | None = None) -> str:
    """A sentence on a base that does not fit the conversations or has memorised them; empty if it looks
    well.

    `held_out`, `trained`: its loss on answers held out and to train on. `spelled`: share of the characters
    that its tokenizer spells in bytes.
    """
    guess = math.log(vocab_size)
    if held_out > guess + FOREIGN:
        advice = "Start from a base, with its tokenizer, that was trained on such text."
        return f"{foreign(held_out, vocab_size, spelled)} {advice}"
    if held_out > guess - GUESSING:
        return (
            f"The base's {held_out:.2f} nats on held-out answers are near ln {vocab_size} = {guess:.2f}: "
            "guessing. "
            "It is untrained, has memorised another text, or belongs to another tokenizer. A base that was "
            "stopped earlier may do better."
        )
    if trained < held_out - BY_HEART:
        return (
            f"The base finds the answers to train on much easier ({trained:.2f} nats a token) than those "
            f"held out ({held_out:.2f}): "
            "it has learned them by heart before, so there is little left to learn. Start from the base "
            "before it."
        )
    return ""


def foreign(held_out: float, vocab_size: int, spelled: float | None) -> str:
    """That a base expects other text: it is worse than guessing, which an untrained one cannot be."""
    bytes_spelled = "" if spelled is None else f"; {spelled:.0%} of the characters are spelled in bytes"
    return (
        f"The base's {held_out:.2f} nats on held-out answers are above ln {vocab_size} = "
        f"{math.log(vocab_size):.2f}, "
        "what guessing costs: the language or the tokens of these conversations are foreign to "
        f"it{bytes_spelled}."
    )


# ---- why a run is not better ----


def why_not(evidence: Evidence) -> str:
    """The likeliest reason and what to try, the first that fits. See each function for what it looks at."""
    reasons = (too_few, forgot, memorised, did_not_move, still_falling, too_little_data)
    return next(
        filter(None, (reason(evidence) for reason in reasons)),
        "Its answers have little in common with those held out.",
    )


def too_few(evidence: Evidence) -> str:
    """There is no interval."""
    if evidence.interval is not None:
        return ""
    held_out = evidence.conversations[1]
    return (
        f"{FEWEST} held-out conversations or more are needed to tell; here are {held_out}. Add conversations."
    )


def forgot(evidence: Evidence) -> str:
    """The rise on base text is beyond what is allowed, after blending too."""
    if evidence.forgetting <= evidence.max_forgetting:
        return ""
    return (
        f"It forgot {evidence.forgetting:.2f} nats a token of base text, and --max_forgetting allows "
        f"{evidence.max_forgetting:.2f}. "
        "A share of base text among the training rows (--replay=0.25) or a lower --learning_rate keeps more."
    )


def memorised(evidence: Evidence) -> str:
    """The held-out loss rose clearly after its lowest point while the training loss fell."""
    low, last = min(evidence.points, key=lambda p: (p.answer_loss, p.step)), evidence.points[-1]
    trained = [loss for step, loss in sorted(evidence.training.items()) if step >= low.step]
    if last.answer_loss - low.answer_loss <= CLEAR or len(trained) < 2 or trained[-1] >= trained[0]:
        return ""
    began = f"from iteration {low.step} on" if low.step else "from the start"
    return (
        f"It memorised {began}: the training loss fell from {from_to(trained[0], trained[-1])} while "
        "held-out answers rose "
        f"from {from_to(low.answer_loss, last.answer_loss)}. More conversations, fewer iterations or a "
        "lower --learning_rate help."
    )


def did_not_move(evidence: Evidence) -> str:
    """No loss moved: not the held-out one, and the training loss less than STILL from its first tenth to
    its last.
    """
    base, losses = evidence.points[0], [loss for _, loss in sorted(evidence.training.items())]
    tenth = max(len(losses) // 10, 1)
    fell = sum(losses[:tenth]) / tenth - sum(losses[-tenth:]) / tenth if losses else 0.0
    if abs(fell) > STILL or any(abs(p.answer_loss - base.answer_loss) > CLEAR for p in evidence.points):
        return ""
    return (
        "The learning rate was too low to move it: neither training nor held-out loss changed. "
        "A higher --learning_rate moves more."
    )


def still_falling(evidence: Evidence) -> str:
    """The held-out loss fell clearly at the last evaluation."""
    if len(evidence.points) < 3 or evidence.points[-2].answer_loss - evidence.points[-1].answer_loss <= CLEAR:
        return ""
    last = evidence.points[-1].step
    return f"Held-out answers were still getting better at iteration {last}. A higher --max_iters goes on."


def too_little_data(evidence: Evidence) -> str:
    """The interval holds 0: what there is does not tell the two apart."""
    if evidence.interval is None or not evidence.interval[0] <= 0 <= evidence.interval[1]:
        return ""
    trained, held_out = evidence.conversations
    return (
        f"Too little data to tell the two apart: {trained} conversations to train on, {held_out} held out. "
        "More of them narrow the interval."
    )


# ---- what else should be known ----


def notes(evidence: Evidence) -> tuple[str, ...]:
    """Sentences for whatever the word."""
    share, interval = evidence.listening.tuned, evidence.listening.interval
    if share is None or interval is None or interval[0] > CHANCE:
        return ()
    return (
        f"Its answers may not listen to their questions at all: they fit them in {share:.0%} of pairs "
        f"(95%: {interval[0]:.0%} to {interval[1]:.0%}), which may be chance.",
    )


def as_dict(outcome: Verdict) -> dict[str, Any]:
    """For JSON."""
    return {**vars(outcome), "notes": list(outcome.notes)}
