"""Score one model, or two side by side, to see whether a model is better than its base.

    python -m arianna.evaluate --checkpoint=out/ckpt_ft.pt --compare=out/ckpt_v1_base.pt --out=scores.json
    python -m arianna.evaluate --checkpoint=out/ckpt_ft.pt --pairs=blimp --pairs_each=100    # these alone

Losses are negative log-likelihoods in nats a token. Both models are scored and sampled in the context of
the second, the base. The same files give the same numbers to the last digit, but for the times. Run it in
the project's folder.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, which reads the environment once
    from arianna.system import environment

    environment.prepare()

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arianna import formats
from arianna.corpus import prepare
from arianna.ops import one_thread
from arianna.scoring import base_text, scores
from arianna.scoring.minimal_pairs import read_pairs, score_pairs
from arianna.scoring.scores import Inputs
from arianna.system import config
from arianna.system.commands import TEMPERATURE
from arianna.system.files import check_outputs, write_atomic, write_missing
from arianna.system.visible import visible
from model import Transformer
from tokenizer import Tokenizer


@dataclass(frozen=True)
class EvaluateConfig:
    """The models to score, the data to score them on, and the sampling of answers."""

    checkpoint: str | None = None  # the model: a .pt, a llama2.c .bin, a .gguf or a Hugging Face folder
    compare: str | None = None  # a second model beside it, usually its base
    conversations: str = "data/arianna_conversations.jsonl"  # the fine-tune's file; a tenth was held out
    tokenizer: str | None = None  # both models'; by default the one they name, else data/tok4096.model
    base_text: str | None = None  # text (file or folder) that the base knows, to measure forgetting on, too
    words: str = "data/words.txt"  # words that count as words, besides those of the texts above
    questions: str = "data/everyday_questions.txt"  # to be answered besides the held-out ones, one a line
    samples_each: int = 5  # answers to each question
    temperature: float = TEMPERATURE  # answers are sampled at this temperature; 0: always the likeliest token
    top_p: float = 0.9  # and from the fewest tokens that have this probability together
    top_k: int = 300  # of so many of the likeliest tokens; 0: of all
    seed: int = 1337  # the same seed gives the same answers
    pairs: str | None = None  # minimal pairs (a .jsonl file like BLiMP's, or a folder): score these alone
    pairs_each: int = 0  # score so many pairs of each file; 0: all
    out: str | None = None  # write all scores here, as JSON
    force: bool = False  # replace --out where it exists

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            raise ValueError("--checkpoint is missing; give the model to score")
        for name in ("samples_each", "top_k", "seed", "pairs_each", "temperature"):
            least = int(name == "samples_each")
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        self.check_used()

    def check_used(self) -> None:
        """Raise ValueError for a flag that would not be used beside the others."""
        for name, needed in (("pairs_each", "pairs"), ("force", "out")):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"--{name} belongs to --{needed}; give that, too, or leave it out")

    @property
    def models(self) -> list[str]:
        return [path for path in (self.checkpoint, self.compare) if path]

    @property
    def inputs(self) -> list[str]:
        """The paths of all files that are read."""
        texts = [self.base_text, self.words, self.questions, self.pairs]
        return [path for path in (*self.models, self.conversations, self.tokenizer, *texts) if path]


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(EvaluateConfig, argv, __doc__, word="checkpoint")
    check_out(cfg)
    with config.usage_errors(OSError, ValueError):
        result = evaluate_pairs(cfg) if cfg.pairs else evaluate(cfg)
        print(visible(pairs_table(result) if cfg.pairs else table(result)))
        if cfg.out:
            write_atomic(cfg.out, json.dumps(result, indent=1, allow_nan=False).encode())
    return 0


def check_out(cfg: EvaluateConfig) -> None:
    """Raise UsageError for an --out that cannot or must not be written, before minutes of scoring."""
    if cfg.out is None:
        return
    check_outputs([cfg.out], cfg.inputs, cfg.force)
    if not Path(cfg.out).absolute().parent.is_dir():
        raise config.UsageError(
            f"{Path(cfg.out).parent} is not a folder, so {cfg.out} cannot be written there"
        )


# ---- minimal pairs ----


def evaluate_pairs(cfg: EvaluateConfig) -> dict[str, Any]:
    """The share of minimal pairs that each model has right."""
    kinds = read_pairs(cfg.pairs, cfg.pairs_each or None)
    models, tokenizer = open_models(cfg)
    with one_thread():
        scores = [score_pairs(model, kinds, tokenizer) for model in models]
    return {"files": cfg.models, "scores": scores}


def pairs_table(result: dict[str, Any]) -> str:
    """The shares of right pairs, a line for each model."""
    return "\n".join(
        f"{file}: {shown(score, '.1%')} of {score['pairs']:,} minimal pairs right "
        f"(files: {len(score['kinds'])}; 50% is chance)"
        for file, score in zip(result["files"], result["scores"], strict=True)
    )


# ---- everything else ----


def evaluate(cfg: EvaluateConfig) -> dict[str, Any]:
    """The scores of both models in the base's context, and their difference (None without a second)."""
    known = prepare.survey(cfg.conversations, print)
    models, tokenizer = open_models(cfg)
    settings = ("samples_each", "temperature", "top_p", "top_k", "seed")
    sampling = {name: getattr(cfg, name) for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare_inputs(cfg, known, models[-1], tokenizer, Path(folder))
        tuned, base = (*scores.score_models(models, inputs, **sampling), None)[:2]
    result = {"files": cfg.models, "sampling": sampling, "checkpoint": tuned, "compare": base}
    return result | {"difference": scores.changes(tuned, base) if base else None}


def open_models(cfg: EvaluateConfig) -> tuple[list[Transformer], Tokenizer]:
    """The models, all in the last one's context, and their tokenizer. Raises ValueError for another one."""
    base = formats.open_model(cfg.models[-1])
    models = [*(formats.open_model(path, base.args.max_seq_len) for path in cfg.models[:-1]), base]
    tokenizer = formats.open_tokenizer(cfg.models[0], cfg.tokenizer)
    for path, model in zip(cfg.models, models, strict=True):
        tokenizer.check_fits(model.args.vocab_size, path)
        formats.check_tokenizer(path, tokenizer)
    return models, tokenizer


def prepare_inputs(
    cfg: EvaluateConfig, known: prepare.Survey, base: Transformer, tokenizer: Tokenizer, folder: Path
) -> Inputs:
    """Write the rows that are scored into an empty folder, as a run has them, and read all inputs."""
    for path in (cfg.words, cfg.questions):
        check_text(path)
    context, vocab_size = base.args.max_seq_len, base.args.vocab_size
    prepare.write_shards(known, str(tokenizer.path), (context, context), folder / "data", print)
    with one_thread():
        texts = base_text.files(base, tokenizer, folder / "base_text", cfg.base_text, replayed=False)
    write_missing(texts, folder / "base_text")
    halves = tuple(list(prepare.iter_conversations(known, side)) for side in (False, True))
    return scores.read_inputs(
        halves, folder, (context, vocab_size), tokenizer, cfg.words, cfg.questions, cfg.base_text
    )


def check_text(path: str) -> None:
    """Raise ValueError for a file that cannot be read as text."""
    try:
        Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(
            f"{path} cannot be read as text ({reason}); a file of lines is needed there."
        ) from None


# ---- the table ----


def table(result: dict[str, Any]) -> str:
    """Scores for people, a column for each model; the interval of each is 95%."""
    columns = [cells(result[name]) for name in ("checkpoint", "compare") if result[name]]
    lines = [("", result["files"]), *((label, [c[label] for c in columns]) for label in columns[0])]
    text = "\n".join(f"{label:38}" + "".join(f"{cell:>28}" for cell in row) for label, row in lines)
    return f"{text}\n\n{differences(result)}" if result["compare"] else text


def differences(result: dict[str, Any]) -> str:
    """The differences between the two models, a line each."""
    tuned, base, difference = (result[name] for name in ("checkpoint", "compare", "difference"))
    change = {"value": tuned["answers"]["loss"] - base["answers"]["loss"], "low": None, "high": None}
    rises = {"held-out answers, nats a token": shown(difference["answers"] or change, "+.3f")}
    rises |= {
        f"forgetting ({name}), nats a token": shown(r, "+.3f") for name, r in difference["forgetting"].items()
    }
    rises |= {"answers that fit their own question": shown(difference["listening"], "+.1%")}
    lines = [f"{label:38}{rise:>28}" for label, rise in rises.items()]
    return "\n".join(["the first less the second, with 95% intervals:", *lines])


def cells(scores: dict[str, Any]) -> dict[str, str]:
    """The words of a column of the table."""
    loss, texts, speed, heard = scores["answers"], scores["generated"], scores["times"], scores["listening"]
    seconds = speed["losses"] + speed["generation"]
    terminator = "-" if loss["terminator_loss"] is None else f"{loss['terminator_loss']:.3f}"
    bits = {
        name: f" ({text['bits_per_byte']:.3f})"
        for name, text in scores["base_text"].items()
        if text["bits_per_byte"]
    }
    fitting = {"value": heard["share"], "low": heard["low"], "high": heard["high"]}
    gain = {"value": heard["gain"], "low": heard["gain_low"], "high": heard["gain_high"]}
    return {
        "held-out answers, nats a token": f"{loss['loss']:.3f}",
        "  perplexity": f"{loss['perplexity']:.1f}",
        "  their end, nats a token": terminator,
        "answers that fit their own question": shown(fitting, ".0%"),
        "  gain by it, nats a token": shown(gain, ".3f"),
        **{
            f"base {name}, nats (bits a byte)": f"{text['loss']:.3f}{bits.get(name, '')}"
            for name, text in scores["base_text"].items()
        },
        f"stopped, of {texts['answers']} answers": shown(texts["stop_rate"], ".0%"),
        "invented words, %": shown(texts["non_words"], ".2f"),
        "copied runs of eight words": shown(texts["copied"], ".2%"),
        "longest copy, words": str(texts["longest_copy"]),
        "repeated runs of four words": shown(texts["repeated"], ".2%"),
        "distinct pairs of words": "-" if texts["distinct_2"] is None else f"{texts['distinct_2']:.3f}",
        "words an answer": f"{texts['words']:.1f}",
        "seconds; sampled tokens a second": f"{seconds:.0f}; {speed['tokens_per_second']:,.0f}",
    }


def shown(ratio: dict[str, Any], form: str) -> str:
    """A value with its interval, or a dash where there is none."""
    if ratio["value"] is None:
        return "-"
    interval = "" if ratio["low"] is None else f" ({ratio['low']:{form}} to {ratio['high']:{form}})"
    return f"{ratio['value']:{form}}{interval}"


if __name__ == "__main__":
    config.run_main(main)
