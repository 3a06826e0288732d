"""Every score of a model, the same for all models: losses, listening, and statistics of what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.corpus.parallel import cores, each
from arianna.corpus.texts import read_text, text_files
from arianna.ops import one_thread
from arianna.scoring import text_statistics
from arianna.scoring.answers import generate_answers, generated_scores
from arianna.scoring.bootstrap import bootstrap
from arianna.scoring.listening import Listening, from_dict, improvement, listening
from arianna.scoring.losses import TextLoss, answer_loss, forgetting, text_loss
from arianna_data import Rows
from model import Transformer
from tokenizer import Tokenizer

MOST_ANSWERS, MOST_TEXT = 512, 128  # rows that are scored of answers and of each base text
WORTH_A_PROCESS = 64  # answers; fewer are written before another process has imported torch
Halves = tuple[Sequence[Conversation], Sequence[Conversation]]  # trained on, held out


@dataclass(frozen=True)
class Inputs:
    """The data that `score_model` scores a model on."""

    rows: Rows  # held-out conversations
    base_text: Mapping[str, Rows]
    held_out: list[Conversation]
    everyday: list[str]  # further questions
    tokenizer: Tokenizer
    known: frozenset[str]  # words that count as words
    source: text_statistics.Source  # texts that can have been copied


def read_inputs(
    halves: Halves,
    folder: Path,
    shape: tuple[int, int],
    tokenizer: Tokenizer,
    words: str | Path,
    questions: str | Path,
    base_text: str | None,
) -> Inputs:
    """Read the data to score on from a run's folder, with its data/val.bin and base_text/val*.bin.

    `shape`: the base's context and number of tokens, in which all models are scored. `words`: a list of
    words that count as words; those of the real base text (a file or a folder) do, too.
    """
    known = text_statistics.load_words(words)
    if base_text is not None:
        known = known.union(*(text_statistics.words_of(read_text(f)) for f in text_files(base_text)))
    files = sorted((folder / "base_text").glob("val*.bin"))
    texts = {f.stem.removeprefix("val_"): Rows(f.parent, f.stem, *shape) for f in files}
    rows = Rows(folder / "data", "val", *shape)
    return make_inputs(halves, rows, texts, read_questions(questions), known, tokenizer)


def make_inputs(
    halves: Halves,
    rows: Rows,
    base_text: Mapping[str, Rows],
    everyday: Sequence[str],
    known: frozenset[str],
    tokenizer: Tokenizer,
) -> Inputs:
    """Put the data together. Words of all conversations count as words; trained ones can have been copied."""
    train, held_out = ([encoding.plain_conversation(c, tokenizer)[0] for c in half] for half in halves)
    plain = [encoding.ascii_typography(q, tokenizer)[0] for q in everyday]
    texts = [text for c in (*train, *held_out) for text in texts_of(c)]
    known = known.union(*map(text_statistics.words_of, texts))
    source = text_statistics.copy_source([text for c in train for text in texts_of(c)])
    return Inputs(rows, base_text, held_out, plain, tokenizer, known, source)


def texts_of(conversation: Conversation) -> list[str]:
    """The system text, questions and answers of a conversation."""
    return [conversation.system, *(text for turn in conversation.turns for text in turn)]


def read_questions(path: str | Path) -> list[str]:
    """The questions of a file with one a line."""
    return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]


# ---- scoring ----


def score_models(models: Iterable[Transformer], inputs: Inputs, **sampling: Any) -> list[dict[str, Any]]:
    """The scores of each model; two at a time where that pays, in processes of one thread: equal digits."""
    answers = (len(inputs.held_out) + len(inputs.everyday)) * sampling.get("samples_each", 5)
    score, jobs = partial(score_model, inputs=inputs, **sampling), [(model,) for model in models]
    return list(each(score, jobs, min(2, cores()) if answers >= WORTH_A_PROCESS else 1))


def score_model(model: Transformer, inputs: Inputs, **sampling: Any) -> dict[str, Any]:
    """Every score of a model, as plain numbers for JSON. `sampling` goes to `generate_answers`.

    answers: AnswerLoss; listening: Listening; base_text: TextLoss by name; generated: see
    `generated_scores`; samples: each answer with the places of its invented words and copies; times: the
    only entry that differs when a model is scored again. Computed on one thread of the CPU, since two may
    round the same sum differently.
    """
    with one_thread():
        started = time.monotonic()
        scores = score_losses(model, inputs)
        scored = time.monotonic()
        scores |= score_answers(model, inputs, **sampling)
        seconds = time.monotonic() - scored
    speed = sum(sample["tokens"] for sample in scores["samples"]) / seconds
    return scores | {"times": {"losses": scored - started, "generation": seconds, "tokens_per_second": speed}}


def score_losses(model: Transformer, inputs: Inputs) -> dict[str, Any]:
    """The scores of a model on given text. Raises ValueError if its losses are no numbers."""
    loss, tokenizer = answer_loss(model, inputs.rows, MOST_ANSWERS), inputs.tokenizer
    if not math.isfinite(loss.loss):
        raise ValueError(
            "the model's answer loss is not a number, so it cannot be scored; use an earlier checkpoint."
        )
    terminator = loss.terminator_loss if math.isfinite(loss.terminator_loss) else None
    texts = {name: text_loss(model, rows, MOST_TEXT, tokenizer) for name, rows in inputs.base_text.items()}
    return {
        "answers": {**asdict(loss), "perplexity": loss.perplexity, "terminator_loss": terminator},
        "listening": asdict(listening(model, inputs.held_out, tokenizer, inputs.rows.max_seq_len)),
        "base_text": {name: asdict(score) for name, score in texts.items()},
    }


def score_answers(model: Transformer, inputs: Inputs, **sampling: Any) -> dict[str, Any]:
    """A model's own answers to held-out and everyday questions, and their statistics."""
    held_out, no_text = inputs.held_out, [""] * len(inputs.everyday)
    questions = [c.turns[0][0] for c in held_out] + inputs.everyday
    ahead = {"systems": [c.system for c in held_out] + no_text}
    ahead["greetings"] = [c.greeting for c in held_out] + no_text
    context = inputs.rows.max_seq_len
    answers = generate_answers(model, inputs.tokenizer, questions, context=context, **ahead, **sampling)
    looks = [text_statistics.look_at(a.text, inputs.known, inputs.source, a.whole) for a in answers]
    places = [{name: [*map(list, getattr(look, name))] for name in ("non_words", "copies")} for look in looks]
    first = len(answers) * len(held_out) // len(questions)  # answers to the held-out questions come first
    samples = [{**asdict(a), "held_out": i < first, **places[i]} for i, a in enumerate(answers)]
    return {"generated": generated_scores(answers, looks), "samples": samples}


def changes(tuned: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The changes of scores from the base to the tuned model.

    answers: of the answer loss (`bootstrap`, None if there are too few conversations); forgetting: by base
    text; listening: rise of the share of pairs in which answers fit their own questions.
    """
    pairs = [(s["answers"]["conversation_nats"], s["answers"]["conversation_tokens"]) for s in (base, tuned)]
    difference = bootstrap(pairs[0], {1: pairs[1]})
    losses = [{name: TextLoss(**text) for name, text in s["base_text"].items()} for s in (base, tuned)]
    return {
        "answers": asdict(difference) if difference else None,
        "forgetting": {name: forgetting(losses[0][name], losses[1][name]) for name in losses[0]},
        "listening": improvement(heard(base), heard(tuned)),
    }


def heard(scores: dict[str, Any]) -> Listening:
    """The listening score of a model's scores."""
    return from_dict(scores["listening"])
