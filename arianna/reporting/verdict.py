"""The verdict on a run: a word for programs, a sentence for people, and the reason if it is not better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arianna.scoring.bootstrap import FEWEST
from arianna.scoring.choose import Choice, Point, Word, judge

CLEAR = 0.02  # nats a token: noise of the held-out loss from one evaluation to the next is less
GUESSING = 1.0  # nats a token under ln V, the loss of guessing: a nearer base has learned nothing of use
FOREIGN = 0.25  # nats a token above ln V: new weights are nearer; only a model of other text errs by more
CHANCE = 0.5  # share of pairs in which an answer of a model that ignores questions fits its own one
BY_HEART = 0.5  # nats a token: the losses on two halves of unseen conversations differ by less
STILL = 0.05  # nats a token: a training loss that changed less has not moved; it is noisier
BEGINNING = {"better": "Better", "no clear change": "No clear change", "worse": "Worse"}


@dataclass(frozen=True)
class Listening:
    """Shares of pairs in which answers fit their own questions, and their rise; None if that is not known."""

    base: float | None
    tuned: float | None
    interval: tuple[float, float] | None  # 95%, of the tuned model's share
    rise: tuple[float, float] | None  # 95%, of tuned minus base


@dataclass(frozen=True)
class Evidence:
    """The facts that a verdict rests on. Losses are in nats a token."""

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
    """A verdict. `use` is the file to use; `reason` says why a run is not better, and is empty if it is."""

    word: Word
    sentence: str
    reason: str
    notes: tuple[str, ...]
    use: str


def verdict(evidence: Evidence, checkpoint: str, base: str) -> Verdict:
    """The verdict by the word of `choose.judge`. `checkpoint`, `base`: paths, as they are to be typed.

    | word | sentence | file |
    |---|---|---|
    | better | Better: ... | the checkpoint |
    | no clear change, there is no interval | Cannot tell: ... | the base |
    | no clear change | No clear change: ... | the base |
    | worse | Worse: ... | the base |
    """
    rise, allowed = evidence.losses[1] - evidence.losses[0], evidence.max_forgetting
    word = judge(rise, evidence.interval, evidence.forgetting, allowed)
    beginning = "Cannot tell" if word == "no clear change" and evidence.interval is None else BEGINNING[word]
    better = word == "better"
    end = f"Use {checkpoint} ({origin(evidence.choice)})." if better else f"Keep {base}."
    sentence = f"{beginning}: {'; '.join(changes(evidence))}. {end}"
    reason = "" if better else why_not(evidence)
    return Verdict(word, sentence, reason, notes(evidence), checkpoint if better else base)


def changes(evidence: Evidence) -> list[str]:
    """The changes of answers, their fit to questions, base text and words, a phrase each."""
    held_out = evidence.conversations[1]
    interval = f"{held_out} conversations are too few for an interval"
    if evidence.interval is not None:
        interval = "95%: {} to {}".format(*(signed(x) for x in evidence.interval))
    phrases = [f"held-out answers went from {from_to(*evidence.losses)} nats ({interval})", *heard(evidence)]
    losses = base_text(evidence.choice)
    phrases.append("base text was not measured" if losses is None else f"base text {from_to(*losses)}")
    before, after = evidence.non_words
    if before is not None and after is not None:
        phrases.append(f"invented words {before:.1f}% to {after:.1f}%")
    return phrases


def heard(evidence: Evidence) -> list[str]:
    """A phrase on how often answers fit their questions, and on a model whose answers only got likelier."""
    listening, likelier = evidence.listening, evidence.losses[1] < evidence.losses[0]
    if listening.base is None or listening.tuned is None:
        return []
    if listening.base == listening.tuned == 1:  # nothing is left to rise
        return ["it fits answers to questions in every pair, as before; 50% is chance"]
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
    """The losses of the base and of the used model on the base text that rose most."""
    name = worst_text(choice)
    return None if name is None else (choice.base.base_text[name], choice.used.base_text[name])


def worst_text(choice: Choice) -> str | None:
    """The name of the base text that the used model forgot most of."""
    before, after = choice.base.base_text, choice.used.base_text
    shared = [name for name in after if name in before]
    return max(shared, key=lambda name: after[name] - before[name], default=None)


def origin(choice: Choice) -> str:
    """The origin of the used weights in words."""
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


# ---- the base, before anything runs ----


def about_base(held_out: float, trained: float, vocab_size: int, spelled: float | None = None) -> str:
    """A sentence on a base that does not fit the conversations or has memorised them, else an empty one.

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
            "guessing. It is untrained, has memorised another text, or belongs to another tokenizer. "
            "A base that was stopped earlier may do better."
        )
    if trained < held_out - BY_HEART:
        return (
            f"The base finds the answers to train on much easier ({trained:.2f} nats a token) "
            f"than those held out ({held_out:.2f}): it has learned them by heart before, "
            "so there is little left to learn. Start from the base before it."
        )
    return ""


def foreign(held_out: float, vocab_size: int, spelled: float | None) -> str:
    """A sentence on a base that expects other text: it is worse than guessing, as no untrained one can be."""
    bytes_spelled = "" if spelled is None else f"; {spelled:.0%} of the characters are spelled in bytes"
    guess = f"ln {vocab_size} = {math.log(vocab_size):.2f}, what guessing costs"
    return (
        f"The base's {held_out:.2f} nats on held-out answers are above {guess}: "
        f"the language or the tokens of these conversations are foreign to it{bytes_spelled}."
    )


# ---- why a run is not better ----


def why_not(evidence: Evidence) -> str:
    """The likeliest reason and what to try: the sentence of the first function below that has one."""
    reasons = (too_few, forgot, memorised, did_not_move, still_falling, too_little_data)
    sentences = filter(None, (reason(evidence) for reason in reasons))
    return next(sentences, "Its answers have little in common with those held out.")


def too_few(evidence: Evidence) -> str:
    """A sentence for a run without an interval."""
    if evidence.interval is not None:
        return ""
    needed = f"{FEWEST} held-out conversations or more are needed to tell"
    return f"{needed}; here are {evidence.conversations[1]}. Add conversations."


def forgot(evidence: Evidence) -> str:
    """A sentence for a rise on base text beyond the allowed one, after blending too."""
    if evidence.forgetting <= evidence.max_forgetting:
        return ""
    allowed = f"--max_forgetting allows {evidence.max_forgetting:.2f}"
    return (
        f"It forgot {evidence.forgetting:.2f} nats a token of base text, and {allowed}. "
        "A share of base text among the training rows (--replay=0.25) or a lower --learning_rate keeps more."
    )


def memorised(evidence: Evidence) -> str:
    """A sentence for a held-out loss that rose from its lowest point on while the training loss fell."""
    low, last = min(evidence.points, key=lambda p: (p.answer_loss, p.step)), evidence.points[-1]
    trained = [loss for step, loss in sorted(evidence.training.items()) if step >= low.step]
    if last.answer_loss - low.answer_loss <= CLEAR or len(trained) < 2 or trained[-1] >= trained[0]:
        return ""
    began = f"from iteration {low.step} on" if low.step else "from the start"
    return (
        f"It memorised {began}: the training loss fell from {from_to(trained[0], trained[-1])} "
        f"while held-out answers rose from {from_to(low.answer_loss, last.answer_loss)}. "
        "More conversations, fewer iterations or a lower --learning_rate help."
    )


def did_not_move(evidence: Evidence) -> str:
    """A sentence for losses that did not move, the training loss not from its first tenth to its last."""
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
    """A sentence for a held-out loss that fell clearly at the last evaluation."""
    if len(evidence.points) < 3 or evidence.points[-2].answer_loss - evidence.points[-1].answer_loss <= CLEAR:
        return ""
    last = evidence.points[-1].step
    return f"Held-out answers were still getting better at iteration {last}. A higher --max_iters goes on."


def too_little_data(evidence: Evidence) -> str:
    """A sentence for an interval that holds 0: the data do not tell the two models apart."""
    if evidence.interval is None or not evidence.interval[0] <= 0 <= evidence.interval[1]:
        return ""
    trained, held_out = evidence.conversations
    return (
        f"Too little data to tell the two apart: {trained} conversations to train on, {held_out} held out. "
        "More of them narrow the interval."
    )


# ---- notes ----


def notes(evidence: Evidence) -> tuple[str, ...]:
    """Sentences that belong to the verdict whatever its word is."""
    fitting, interval = evidence.listening.tuned, evidence.listening.interval
    if fitting is None or interval is None or interval[0] > CHANCE:
        return ()
    return (
        f"Its answers may not listen to their questions at all: they fit them in {fitting:.0%} of pairs "
        f"(95%: {interval[0]:.0%} to {interval[1]:.0%}), which may be chance.",
    )
