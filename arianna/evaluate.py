"""Is a model better than its base? The scores of one model, or of two side by side.

    python -m arianna.evaluate --checkpoint=out/ckpt_ft.pt --compare=out/ckpt_v1_base.pt --base_text=data/arianna_corpus.txt --out=scores.json

Losses are negative log-likelihoods in nats a token. Both models are scored and sampled in the context of the second, the
base. The same files give the same numbers to the last digit, but for the times.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from arianna.corpus import conversations, encoding
from arianna.corpus.conversations import Conversation
from arianna.scoring import base_text, text_statistics, words
from arianna.scoring.answers import generate_answers, generated_scores
from arianna.scoring.bootstrap import bootstrap
from arianna.scoring.losses import TextLoss, answer_loss, forgetting, question_gain, text_loss
from arianna.system import config
from arianna.system.files import write_atomic
from arianna_data import Rows
from model import Transformer
from tokenizer import Tokenizer

T = TypeVar("T")

MOST_ANSWERS, MOST_TEXT = 512, 128  # rows that score_model scores


@dataclass(frozen=True)
class Inputs:
    """What `score_model` scores with, the same for every model that is compared. See `make_inputs`."""

    rows: Rows
    base_text: Mapping[str, Rows]
    held_out: list[Conversation]
    everyday: list[str]
    tokenizer: Tokenizer
    known: frozenset[str]  # words that count as words
    source: text_statistics.Source  # what can have been copied


def make_inputs(
    split: tuple[Sequence[Conversation], Sequence[Conversation]],
    rows: Rows,
    texts: Mapping[str, Rows],
    everyday: Sequence[str],
    known: frozenset[str],
    tokenizer: Tokenizer,
) -> Inputs:
    """From `conversations.split`, the rows of those held out and of base texts by name, all in the base's context, further questions
    to be answered, and the words of the list and of the base text; the conversations' own are added here."""
    train, held_out = ([encoding.plain_conversation(c, tokenizer)[0] for c in part] for part in split)
    plain = [encoding.ascii_typography(q, tokenizer)[0] for q in everyday]
    known |= {word for c in (*train, *held_out) for text in texts_of(c) for word in words.words_of(text)}
    return Inputs(rows, texts, held_out, plain, tokenizer, known, text_statistics.copy_source([t for c in train for t in texts_of(c)]))


def texts_of(conversation: Conversation) -> list[str]:
    return [conversation.system, *(text for turn in conversation.turns for text in turn)]


def score_model(model: Transformer, inputs: Inputs, **sampling: Any) -> dict[str, Any]:
    """Every score of a model, as plain numbers for JSON. `sampling` goes to `generate_answers`.

    answers: AnswerLoss; question_gain; base_text: TextLoss by name; generated: see `generated_scores`; samples: each answer
    with the places of its non-words and copies; times, the only entry in which two scorings of a model may differ.
    Computed on one thread of the CPU, since two may round the same sum differently.
    """
    context, started = inputs.rows.max_seq_len, time.monotonic()
    with one_thread():
        loss = answer_loss(model, inputs.rows, MOST_ANSWERS)
        if not math.isfinite(loss.loss):
            raise ValueError("the model's answer loss is not a number, so it cannot be scored; use an earlier checkpoint.")
        gain = question_gain(model, inputs.held_out, inputs.tokenizer, context)
        text = {name: asdict(text_loss(model, rows, MOST_TEXT, inputs.tokenizer)) for name, rows in inputs.base_text.items()}
        scored = time.monotonic()
        asked = [c.turns[0][0] for c in inputs.held_out] + inputs.everyday
        systems = [c.system for c in inputs.held_out] + [""] * len(inputs.everyday)
        said = generate_answers(model, inputs.tokenizer, asked, systems, context=context, **sampling)
        generated = time.monotonic()
    looks = [text_statistics.look_at(a.text, inputs.known, inputs.source, a.whole) for a in said]
    places = [{"non_words": [*map(list, look.non_words)], "copies": [*map(list, look.copies)]} for look in looks]
    from_held_out = len(said) * len(inputs.held_out) // len(asked)
    terminator = loss.terminator_loss if math.isfinite(loss.terminator_loss) else None
    speed = sum(a.tokens for a in said) / (generated - scored)
    return {
        "answers": {**asdict(loss), "perplexity": loss.perplexity, "terminator_loss": terminator},
        "question_gain": gain,
        "base_text": text,
        "generated": generated_scores(said, looks),
        "samples": [{**asdict(a), "held_out": i < from_held_out, **places[i]} for i, a in enumerate(said)],
        "times": {"losses": scored - started, "generation": generated - scored, "tokens_per_second": speed},
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compare(tuned: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """What two models' scores differ by: the answer loss (`bootstrap`, None if there are too few conversations), and `forgetting`."""
    pairs = [(s["answers"]["conversation_nats"], s["answers"]["conversation_tokens"]) for s in (base, tuned)]
    found = bootstrap(pairs[0], {1: pairs[1]})
    losses = [{name: TextLoss(**text) for name, text in s["base_text"].items()} for s in (base, tuned)]
    return {
        "answers": asdict(found) if found else None,
        "forgetting": {name: forgetting(losses[0][name], losses[1][name]) for name in losses[0]},
    }


# ---- the command ----


@dataclass(frozen=True)
class EvaluateConfig:
    """What is scored, on what, and how answers are sampled."""

    checkpoint: str | None = None  # the model (.pt or .bin)
    compare: str | None = None  # a second model beside it, usually its base
    conversations: str = "data/arianna_conversations.jsonl"  # those that the fine-tune had: a tenth was held out
    tokenizer: str = "data/tok4096.model"  # the tokenizer of both models
    base_text: str | None = None  # text (file or folder) that the base knows, to measure forgetting on besides its own samples
    words: str = "data/words.txt"  # words that count as words, besides those of the texts above
    questions: str = "data/everyday_questions.txt"  # questions to be answered besides the held-out ones, one a line
    samples_each: int = 5  # answers to each question
    temperature: float = 0.8  # of sampling
    top_p: float = 0.9  # of sampling
    top_k: int = 300  # of sampling
    seed: int = 1337  # of sampling
    out: str | None = None  # write all scores here, as JSON

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            raise ValueError("--checkpoint is missing; give the model to score")
        if self.samples_each < 1 or not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"samples_each {self.samples_each}, temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}: "
                "needed are at least 1, 0 or more, above 0 up to 1, 0 or more"
            )
        if self.out and not Path(self.out).absolute().parent.is_dir():  # told before minutes of scoring
            raise ValueError(f"{Path(self.out).parent} is not a folder, so {self.out} cannot be written there")


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(EvaluateConfig, argv, __doc__)
    try:
        result = evaluate(cfg)
        print(table(result))
        if cfg.out:
            write_atomic(cfg.out, json.dumps(result, indent=1, allow_nan=False).encode())
    except (OSError, ValueError) as error:
        raise config.UsageError(str(error)) from None
    return 0


def evaluate(cfg: EvaluateConfig) -> dict[str, Any]:
    """The scores of `checkpoint` and `compare` (None without), each in the base's context, and their `difference`."""
    from arianna import formats

    files = [f for f in (cfg.checkpoint, cfg.compare) if f]
    base = formats.open_model(files[-1])
    models = [formats.open_model(f, base.args.max_seq_len) for f in files]
    tokenizer = Tokenizer(cfg.tokenizer)
    for file, model in zip(files, models, strict=True):
        tokenizer.check_fits(model.args.vocab_size, file)
    sampling = {name: getattr(cfg, name) for name in ("samples_each", "temperature", "top_p", "top_k", "seed")}
    with tempfile.TemporaryDirectory() as folder:
        inputs = read_inputs(cfg, base, tokenizer, Path(folder))
        scores = [score_model(model, inputs, **sampling) for model in models]
    tuned, other = (scores + [None])[:2]
    difference = compare(tuned, other) if other else None
    return {"files": files, "sampling": sampling, "checkpoint": tuned, "compare": other, "difference": difference}


def read_inputs(cfg: EvaluateConfig, base: Transformer, tokenizer: Tokenizer, folder: Path) -> Inputs:
    """Read all that is scored on, sample the base, and write the rows into an empty folder."""
    split = conversations.split(conversations.read(cfg.conversations).conversations)
    known, everyday = readable(words.load, cfg.words), readable(read_questions, cfg.questions)
    context, vocab_size = base.args.max_seq_len, base.args.vocab_size
    files = encoding.prepare_conversations(*split, tokenizer, context, context)[0]
    texts = {}
    if cfg.base_text:
        texts["text"] = base_text.text_tokens(cfg.base_text, tokenizer)["val"]
        known = known.union(*(words.words_of(encoding.read_text(f)) for f in encoding.text_files(cfg.base_text)))
    with one_thread():
        texts["samples"] = base_text.sampled_rows(base, base_text.SAMPLED_ROWS["val"], base_text.SEED)
    encoding.write_prepared(files | {f"{name}.bin": tokens.tobytes() for name, tokens in texts.items()}, folder)
    rows = {name: Rows(folder, name, context, vocab_size) for name in ("val", *texts)}
    return make_inputs(split, rows.pop("val"), rows, everyday, known, tokenizer)


def readable(read: Callable[[str], T], path: str) -> T:
    try:
        return read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as text ({getattr(error, 'strerror', None) or error}); a file of lines is needed there."
        ) from None


def read_questions(path: str) -> list[str]:
    """The questions of a file with one a line."""
    return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def table(result: dict[str, Any]) -> str:
    """Scores for people, a column for each model; the interval of each is 95%."""
    columns = [cells(result[name]) for name in ("checkpoint", "compare") if result[name]]
    lines = [("", result["files"]), *((label, [c[label] for c in columns]) for label in columns[0])]
    text = "\n".join(f"{label:34}" + "".join(f"{cell:>28}" for cell in row) for label, row in lines)
    if result["compare"] is None:
        return text
    answers, difference = [result[name]["answers"]["loss"] for name in ("checkpoint", "compare")], result["difference"]
    found = difference["answers"]
    interval = f"95%: {found['low']:+.3f} to {found['high']:+.3f}" if found else "too few conversations for an interval"
    text += f"\n\nheld-out answers: {answers[0] - answers[1]:+.3f} nats a token ({interval})"
    return text + "".join(f"\nforgetting ({name}): {shown(rise, '+.3f')} nats a token" for name, rise in difference["forgetting"].items())


def cells(scores: dict[str, Any]) -> dict[str, str]:
    """The words of a column of the table."""
    loss, said, speed = scores["answers"], scores["generated"], scores["times"]
    terminator = "-" if loss["terminator_loss"] is None else f"{loss['terminator_loss']:.3f}"
    bits = {name: f" ({text['bits_per_byte']:.3f})" for name, text in scores["base_text"].items() if text["bits_per_byte"]}
    return {
        "held-out answers, nats a token": f"{loss['loss']:.3f}",
        "  perplexity": f"{loss['perplexity']:.1f}",
        "  their end, nats a token": terminator,
        "question gain, nats a token": shown(scores["question_gain"], ".3f"),
        **{f"base {name}, nats (bits a byte)": f"{text['loss']:.3f}{bits.get(name, '')}" for name, text in scores["base_text"].items()},
        f"stopped, of {said['answers']} answers": shown(said["stop_rate"], ".0%"),
        "words that are none, percent": shown(said["non_words"], ".2f"),
        "copied runs of eight words": shown(said["copied"], ".2%"),
        "longest copy, words": str(said["longest_copy"]),
        "repeated runs of four words": shown(said["repeated"], ".2%"),
        "distinct pairs of words": "-" if said["distinct_2"] is None else f"{said['distinct_2']:.3f}",
        "words an answer": f"{said['words']:.1f}",
        "seconds; sampled tokens a second": f"{speed['losses'] + speed['generation']:.0f}; {speed['tokens_per_second']:,.0f}",
    }


def shown(ratio: dict[str, Any], form: str) -> str:
    """A value with its interval, if there are."""
    if ratio["value"] is None:
        return "-"
    interval = "" if ratio["low"] is None else f" ({ratio['low']:{form}} to {ratio['high']:{form}})"
    return f"{ratio['value']:{form}}{interval}"


if __name__ == "__main__":
    config.run_main(main)
