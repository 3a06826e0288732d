"""A page that talks: one HTML file with a model, its tokenizer and a small runtime, out and back in.

It opens in any browser, offline, and makes no request: arianna/formats/page/ has its markup, style and
scripts as they are inlined. A script element holds the weights as text in base 85, another the rest as JSON.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from arianna.corpus.encoding import ASCII
from arianna.corpus.template import ASSISTANT, USER
from arianna.formats import base85, llama2c_int8
from arianna.formats.card import figures
from arianna.formats.html_weights import Kind, build, group_of, length, packed, shape_of
from arianna.formats.options import Options, beside, computed
from arianna.formats.vocabulary import MADE_BY, TRIED, collapses, listed, merged
from arianna.system.commands import SEVERAL_AT
from model import Transformer
from tokenizer import FIRST_PIECE, SPACE, Tokenizer

__all__ = ["beside", "check_tokenizer", "computed", "read", "stored", "to_bytes"]  # what every format has

PAGE = Path(__file__).resolve().parent / "page"
MAX_BYTES = 200_000_000  # a browser holds a page several times: as text, as bytes, as numbers
EVERYDAY = ("How are you today?", "What makes a good friend?", "Tell me about the sea.")
WELCOME = (
    "A small language model, {parameters} numbers, is inside this file and talks here. It runs on this "
    "device alone: nothing you type leaves it."
)
BEST_OF = 16  # answers that the page draws by itself to each question: a second or two in a browser
POLICY = (
    "default-src 'none'; script-src 'sha256-{script}' blob:; style-src 'sha256-{style}'; img-src data:; "
    "worker-src blob:; child-src blob:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Voice:
    """A model in a page, and its name there."""

    name: str
    model: Transformer


# ---- out ----


def to_bytes(model: Transformer, options: Options) -> bytes:
    """A page of a model, and of a second one to compare with where the options give it."""
    models = [model] if options.compare is None else [model, options.compare]
    voices = [Voice(name, voice) for name, voice in zip(options.names, models, strict=False)]
    return page_bytes(voices, options.tokenizer, options.html_type, options.report, options.any_size)


def page_bytes(
    voices: Sequence[Voice],
    tokenizer: Tokenizer,
    kind: Kind = "int8",
    report: dict[str, Any] | None = None,
    any_size: bool = False,
) -> bytes:
    """The page's bytes. voices: one model, or two that answer side by side. report: a run's report.json.

    Raises ValueError for a tokenizer that the runtime would read differently or that is not the models', for
    weights that do not fit the kind, and for a page of more than MAX_BYTES unless `any_size`.
    """
    for voice, what in zip(voices, ("the model", "the model to compare with"), strict=False):
        tokenizer.check_fits(voice.model.args.vocab_size, what)
    models = [voice.model for voice in voices]
    check_size(sum(length(m.args, m.tied, kind, group_of(m, kind)) for m in models) * 1.253, any_size)
    weights = [base85.encode(b"".join(packed(model, kind))) for model in models]
    data = {
        "made_by": MADE_BY,
        "template": {"user": USER, "assistant": ASSISTANT},
        "tokenizer": vocabulary(tokenizer),
        "models": [{"name": voice.name, **shape_of(voice.model, kind)} for voice in voices],
        "questions": first_questions(report),
    }
    size = sum(parameter.numel() for parameter in models[0].parameters())
    facts = list(about(voices[0], size, kind, sum(map(len, weights)), report).items())
    verdict = figures(report)["verdict"] if report else ""
    return rendered(voices[0].name, data, weights, facts, verdict, size).encode()


def check_size(size: float, any_size: bool) -> None:
    if size > MAX_BYTES and not any_size:
        raise ValueError(
            f"the page would have {size / 1e6:,.0f} MB; "
            f"a browser opens {MAX_BYTES / 1e6:.0f} MB with ease. Use a smaller --html_type, or --force."
        )


def rendered(
    name: str, data: dict[str, Any], weights: list[str], facts: list[tuple[str, str]], verdict: str, size: int
) -> str:
    """The page from its pieces. `size`: the model's parameters. It may run its own script and style alone."""
    names = ("page.css", "page.js", "runtime.js", "talk.js")
    style, script, runtime, talk = ((PAGE / file).read_text("utf-8") for file in names)
    inlined = {"style": style, "script": script, "worker": runtime + talk, "data": in_script(data)}
    policy = POLICY.format(script=digest(script), style=digest(style))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((PAGE / "page.html").read_text("utf-8")).render(
        {key: Markup(text) for key, text in inlined.items()},
        weights=[Markup(text) for text in weights],
        policy=Markup(policy),
        made_by=MADE_BY,
        temperature=SEVERAL_AT,
        best_of=BEST_OF,
        name=name,
        facts=facts,
        verdict=verdict,
        welcome=WELCOME.format(parameters=in_words(size)),
    )


def digest(text: str) -> str:
    """SHA-256 in base64, as a content security policy has it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def in_script(data: Any) -> str:
    """JSON in ASCII, no text of which can end the script element around it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def in_words(number: int) -> str:
    """A large number in words, such as 7.2 million or 260 thousand."""
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number / 1e3:.0f} thousand"


def about(
    voice: Voice, size: int, kind: Kind, characters: int, report: dict[str, Any] | None
) -> dict[str, str]:
    """The facts that the page shows of its model."""
    a = voice.model.args
    run = {name: value for name, value in figures(report).items() if name != "verdict"} if report else {}
    return {
        "name": voice.name,
        "size": f"{size:,} parameters, {kind}; this file has {(characters + 2e5) / 1e6:.0f} MB",
        "kind": f"Llama: dim {a.dim}, {a.n_layers} layers, {a.n_heads} heads, {a.vocab_size} tokens",
        "context": f"{a.max_seq_len} tokens, about {a.max_seq_len * 4 // 7} words",
        "made": datetime.date.today().isoformat(),
        **run,
    }


def first_questions(report: dict[str, Any] | None) -> list[str]:
    """Three questions to click: held out in the run, or everyday ones."""
    samples = report.get("scores", {}).get("tuned", {}).get("samples", []) if report else []
    held_out = [sample["question"] for sample in samples if sample.get("held_out")]
    asked = [question for question in dict.fromkeys(held_out) if len(question) <= 120]
    return asked[:3] if len(asked) >= 3 else list(EVERYDAY)


# ---- the tokenizer ----


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    """The vocabulary for runtime.js. Raises ValueError unless its ids are the order of a BPE's merges."""
    tokens, spaces_merge = listed(tokenizer), collapses(tokenizer)
    ids = {piece.text: i for i, piece in enumerate(tokens) if piece.kind == "normal"}
    scores = [piece.score for piece in tokens[FIRST_PIECE:]]
    falling = all(a > b for a, b in pairwise(scores))
    plain = min(ids.values(), default=FIRST_PIECE) == FIRST_PIECE and len(ids) == len(scores)
    texts = [*TRIED, *(text.replace(SPACE, " ") for text in ids)]
    equal = all(merged(spaced(text, spaces_merge), ids, tokens) == tokenizer.encode(text) for text in texts)
    if not (falling and plain and equal):
        raise ValueError(
            f"{tokenizer.path} splits text differently from the BPE that the page computes, so no page can "
            "be made with it. `python arianna_data.py train_vocab` trains a tokenizer that can."
        )
    plain_forms = {c: form for c, form in ASCII.items() if tokenizer.spelled_in_bytes(c)}  # as in training
    return {"pieces": [piece.text for piece in tokens], "collapses": spaces_merge, "ascii": plain_forms}


def spaced(text: str, collapses: bool) -> str:
    """A text as the tokenizer sees it; one that `collapses` drops spaces at the ends and joins several."""
    return re.sub(" +", " ", text.lstrip(" ").rstrip(f" {SPACE}")) if collapses else text


def stored(model: Transformer, options: Options) -> Transformer:
    """The model with the weights that the page computes with, in float32; the page rounds nothing else."""
    kind = options.html_type
    if kind == "F32":
        return model
    if group_of(model, kind):
        return llama2c_int8.stored(model)
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.half().float()
    return model


# ---- in ----


def read(path: str | Path, max_seq_len: int | None = None) -> Transformer:
    """The first model of a page, in float32 on the CPU, with another context where `max_seq_len` gives one.

    Raises ValueError unless the page is ours and its weights are whole and finite.
    """
    return read_all(path, max_seq_len)[0].model


def read_all(path: str | Path, max_seq_len: int | None = None) -> list[Voice]:
    path = Path(path)
    page = path.read_bytes()
    try:
        shapes = data_of(page)["models"]
        models = [build(shape, weights_of(page, i), max_seq_len) for i, shape in enumerate(shapes)]
        return [Voice(shape["name"], model) for shape, model in zip(shapes, models, strict=True)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} is damaged or no page of {MADE_BY}: {error}. Use another copy of it."
        ) from None


def data_of(page: bytes) -> dict[str, Any]:
    element = re.search(rb'<script type="application/json" id="data">([^<]*)</script>', page)
    data = json.loads(element[1]) if element else None
    if not isinstance(data, dict) or data.get("made_by") != MADE_BY:
        raise ValueError("it has no model that can be read")
    return data


def weights_of(page: bytes, number: int) -> bytes:
    element = re.search(rb'<script type="text/plain" id="weights-%d">([^<]*)</script>' % number, page)
    if not element:
        raise ValueError("its weights are missing")
    return base85.decode(element[1])


def check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the page carries another tokenizer."""
    pieces = data_of(Path(path).read_bytes())["tokenizer"]["pieces"]
    if pieces != [tokenizer.sp.id_to_piece(i) for i in range(tokenizer.vocab_size)]:
        raise ValueError(
            f"{tokenizer.path} is not the tokenizer in {path}. Use the one that the model was trained with."
        )
