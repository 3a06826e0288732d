"""The page that talks: what is in the file, and what its scripts compute, under Node where there is one."""

import base64
import dataclasses
import hashlib
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REPORT, TINY, build, lively, talk, train_tokenizer

from arianna.corpus.encoding import encode_turns
from arianna.corpus.template import prompt
from arianna.export import main
from arianna.formats import base85, checkpoint, html, open_model
from arianna.formats.options import Options
from arianna.system import config
from model import ModelArgs, Transformer
from tokenizer import BOS, EOS, Tokenizer

WIDE = ModelArgs(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=4096, max_seq_len=256)  # heads share
MODELS = {
    "as shipped, but small": (dataclasses.replace(TINY, max_seq_len=256), True),
    "shared heads": (WIDE, False),
}
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs Node")


def page_of(model: Transformer, tokenizer: Tokenizer, kind: html.Kind = "F32", **more: Any) -> bytes:
    return html.page_bytes([html.Voice("some", model)], tokenizer, kind, **more)


def stored_as(kind: html.Kind, model: Transformer) -> Transformer:
    return html.stored(model, Options(html_type=kind))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def in_page(code: str, page: Path, **given: Any) -> str:
    """JavaScript that computes with a page's own scripts, whose text `inner` finds by id."""
    worker = re.search(r'id="worker">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1]
    names = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    return f'{worker}\nconst data = JSON.parse(inner("data"));\n{names}{code}'


def under_node(code: str, page: Path, **given: Any) -> Any:
    """What JavaScript returns that computes with a page's own scripts."""
    reads = f"""const text = require("fs").readFileSync({json.dumps(str(page))}, "utf8");
    const inner = (id) => text.split(`id="${{id}}">`)[1].split("</script>")[0];
    """
    told = f"(async () => {{ {in_page(code, page, **given)} }})()"
    told += ".then((found) => console.log(JSON.stringify(found)));"
    done = subprocess.run([NODE, "-"], input=reads + told, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# ---- what a page computes ----

LIKELIHOODS = "return tokens.map((token) => logLikelihood(Float32Array.from(logits), token));"

IDS = "const tokenizer = new Tokenizer(data.tokenizer); return texts.map((text) => tokenizer.encode(text));"
LOGITS = """const model = new Model(data.models[0], decode85(inner("weights-0")));
return prompts.map((ids) => {
  for (let at = model.known(ids); at < ids.length; at += AT_ONCE) {
    model.forward(ids.slice(at, at + AT_ONCE), at, at + AT_ONCE >= ids.length);
  }
  return Array.from(model.logits);
});"""
GREEDY = """const model = new Model(data.models[0], decode85(inner("weights-0")));
return prompts.map((ids) => {
  for (let at = 0; at < ids.length; at += AT_ONCE) model.forward(ids.slice(at, at + AT_ONCE), at);
  while (ids.length < model.max_seq_len) {
    ids.push(pick(model.logits, { temperature: 0 }, null));
    if (ids.length < model.max_seq_len) model.forward([ids[ids.length - 1]], ids.length - 1);
  }
  return ids;
});"""


def texts() -> list[str]:
    """500 of them: each byte, control characters, spaces at all places, many scripts, emoji, long words."""
    chance = random.Random(5)
    alphabets = [
        "abc dexyz  ", "Q: A:\n\r\t \u00a0\u3000", "αβγδ ελληνικά ", "привет мир ", "日本語の文章 ",
        "שלום עולם ", "हिन्दी पाठ ",
        "👋🏽👩‍👩‍👧🇬🇧 ❤️", "e\u0301a\u0308\u200d\u200b\ufeff ", "\u2581\u2581 a", "0123456789.,-",
        "‘’“”—–…é£ ", "<s></s><0x41>", "\0\x01\x1b\x7f\x85",
    ]  # fmt: skip
    drawn = ["".join(chance.choices(chance.choice(alphabets), k=chance.randrange(1, 60))) for _ in range(230)]
    fixed = [
        "",
        " ",
        "   ",
        "a",
        " a ",
        "a  b",
        "the " * 40,
        "aaaaaaaaaa" * 9,
        "don't stop\n\n\nQ: what?",
        "\r\n",
        "x" * 300,
    ]
    fixed += ["Hello, how are you today?", "I don’t know — “maybe”…", "\U0010ffff\ue000\ufffd"]
    return [*(f"a{chr(i)}b {chr(i)}" for i in range(256)), *fixed, *drawn]


def expected_logits(model: Transformer, prompts: list[list[int]]) -> np.ndarray:
    with torch.no_grad():
        return np.array([model(torch.tensor([ids]))[0, -1].numpy() for ids in prompts])


def prompts_of(args: ModelArgs) -> list[list[int]]:
    chance = np.random.default_rng(1)
    lengths = [1, 17, args.max_seq_len - 1]
    return [[BOS, *chance.integers(3, args.vocab_size, length - 1).tolist()] for length in lengths]


def continued(model: Transformer, prompts: list[list[int]]) -> list[list[int]]:
    """Prompts of one length, and the likeliest tokens behind them to the context's end, without a cache."""
    ids = torch.tensor(prompts)
    while ids.shape[1] < model.args.max_seq_len:
        with torch.no_grad():
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
    return ids.tolist()


@pytest.fixture(scope="session")
def collapsing(tmp_path_factory) -> Tokenizer:
    """A tokenizer like that of llama2.c's stories260K: of several spaces it makes one."""
    path = tmp_path_factory.mktemp("tokenizer") / "small.model"
    return train_tokenizer(path, remove_extra_whitespaces=True)


@needs_node
@pytest.mark.parametrize("which", ["shipped", "collapsing"])
def test_the_ids_of_500_texts_are_the_tokenizers(tmp_path, tokenizer, collapsing, which):
    used = tokenizer if which == "shipped" else collapsing
    args = dataclasses.replace(TINY, vocab_size=used.vocab_size)
    page = written(tmp_path / "a.html", page_of(build(args), used))
    asked = texts()
    assert len(asked) >= 500
    for text, ids in zip(asked, under_node(IDS, page, texts=asked), strict=True):
        assert ids == used.encode(text), repr(text)


@needs_node
@pytest.mark.parametrize("kind", ["F32", "F16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_torchs(tmp_path, tokenizer, name, kind):
    args, tied = MODELS[name]
    model, prompts = lively(args, tied), prompts_of(args)
    page = written(tmp_path / "a.html", page_of(model, tokenizer, kind))
    told = expected_logits(stored_as(kind, model), prompts)
    assert np.abs(np.array(under_node(LOGITS, page, prompts=prompts)) - told).max() < 1e-4 * max(
        1, told.std()
    )
    if kind != "F32":
        assert np.abs(told - expected_logits(model, prompts)).max() > 1e-4 * told.std(), (
            "the rounding is seen"
        )


@needs_node
@pytest.mark.parametrize("name", MODELS)
def test_50_greedy_continuations_are_torchs(tmp_path, tokenizer, name):
    args, tied = MODELS[name]
    model = lively(dataclasses.replace(args, max_seq_len=36), tied)
    prompts = [[BOS, *row] for row in np.random.default_rng(2).integers(3, 4096, (50, 11)).tolist()]
    page = written(tmp_path / "a.html", page_of(model, tokenizer))
    assert under_node(GREEDY, page, prompts=prompts) == continued(model, prompts)


@needs_node
def test_tokens_are_drawn_by_their_chances_and_a_seed(tmp_path, tokenizer):
    page = written(tmp_path / "a.html", page_of(build(), tokenizer))
    code = """const draw = (seed, sampling) => { const chance = chances(seed);
      return Array.from({ length: 4000 }, () => pick(Float32Array.from(logits), sampling, chance)); };
    return [draw(1, { temperature: 1, top_k: 0, top_p: 1 }), draw(1, { temperature: 1, top_k: 0, top_p: 1 }),
      draw(2, { temperature: 2, top_k: 3, top_p: 1 }), draw(3, { temperature: 1, top_k: 4, top_p: 0.6 })];"""
    shares = np.array([0.4, 0.05, 0.3, 0.2, 0.05])
    first, again, top_k, top_p = map(np.array, under_node(code, page, logits=np.log(shares).tolist()))
    assert (first == again).all()
    assert np.abs(np.bincount(first, minlength=5) / 4000 - shares).max() < 0.03
    flat = np.sqrt(shares) * (shares >= 0.2)
    assert np.abs(np.bincount(top_k, minlength=5) / 4000 - flat / flat.sum()).max() < 0.03
    assert set(top_p) == {0, 2}, "0.4 and 0.3 reach 0.6 of the 0.95 that are left"


# ---- a talk ----

SCRIPTED = """class Scripted { // a model that says what is written for it
  constructor(size, most, script) {
    Object.assign(this, { max_seq_len: most, script, tokens: [], logits: new Float32Array(size) });
  }
  known() { return 0; }
  forward(ids, position, last = true) {
    this.read = (this.read ?? []).concat(ids);
    if (last) { this.logits.fill(0); this.logits[this.script.shift() ?? 5] = 9; }
  }
}
const tokenizer = new Tokenizer(data.tokenizer);
const about = (script, most = 64) =>
  new Talk(new Scripted(tokenizer.pieces.length, most, script), tokenizer, data.template);
const asking = { turns: [], question: "why", system: "", seed: 1, sampling: { temperature: 0 } };
const answered = async (script, request = {}, most = 64) => {
  const told = [], talk = about(script, most);
  await talk.answer({ ...asking, ...request }, (message) => told.push(message));
  const shown = told.filter((m) => m.kind === "text").map((m) => m.text);
  return { ...told[told.length - 1], shown, read: talk.model.read };
};
"""


@pytest.fixture
def scripted(tmp_path, tokenizer):
    """What JavaScript returns that may ask models which say what is written for them."""
    page = written(tmp_path / "a.html", page_of(build(), tokenizer))
    return lambda code, **given: under_node(SCRIPTED + code, page, **given)


@needs_node
def test_an_answer_ends_where_the_model_says_so(scripted, tokenizer):
    said = tokenizer.encode("It is.")
    for stop in (BOS, EOS):
        found = scripted("return answered(script);", script=[*said, stop, *said])
        assert (found["why"], found["text"], found["tokens"]) == ("end", "It is.", len(said))
    assert found["shown"][-1] == "It is." and found["shown"][0] == "It"
    assert found["read"][: -len(said)] == [BOS, *tokenizer.encode(prompt("why"))]
    assert scripted("return answered([1]);")["text"] == ""


@needs_node
def test_likelihoods_are_those_of_the_plain_formula(scripted):
    logits = (10 * torch.randn(50, generator=torch.Generator().manual_seed(3))).tolist()
    found = scripted(LIKELIHOODS, logits=logits, tokens=[0, 7, 49])
    expected = torch.tensor(logits).log_softmax(-1)[[0, 7, 49]]
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


# answers that are drawn one behind the other, each token so many nats likelier than all others
DRAWN = """
const drawn = async (answers, best_of, stop_in) => {
  const told = [], talk = about([]), ahead = [];
  let turn = -1, at = 0;
  const say = (token) => talk.model.logits.fill(-answers[turn].nats)[token] = 0;
  talk.model.forward = () => say(answers[turn].tokens[at++] ?? EOS);
  talk.draw = async (...given) => {
    [turn, at] = [turn + 1, 0];
    ahead.push(talk.model.logits.join());
    talk.stopped = turn === stop_in;
    say(answers[turn].tokens[at++] ?? EOS);
    return Talk.prototype.draw.apply(talk, given);
  };
  talk.read = async () => {};
  const sampling = { temperature: 1, top_k: 1, top_p: 1, best_of };
  await talk.answer({ ...asking, sampling }, (m) => told.push(m));
  const shown = told.filter((m) => m.kind === "text").length;
  return { ...told[told.length - 1], shown, draws: ahead.length, ahead: new Set(ahead).size };
};
return drawn(answers, best_of, stop_in);"""


def draw(scripted, tokenizer, *answers: tuple[str, float], best_of: int = 0, stop_in: int = -1) -> Any:
    """The end of an answer for which a model draws these, and how many draws there were.

    Each token of an answer is so many nats likelier than any other: higher numbers make likelier answers.
    """
    given = [{"tokens": tokenizer.encode(text), "nats": nats} for text, nats in answers]
    return scripted(DRAWN, answers=given, best_of=best_of or len(answers), stop_in=stop_in)


@needs_node
def test_the_likeliest_of_several_answers_is_told_and_nothing_before_it(scripted, tokenizer):
    found = draw(scripted, tokenizer, ("It was.", 3.0), ("It is.", 9.0), ("It is not.", 1.0))
    assert (found["why"], found["text"], found["shown"]) == ("end", "It is.", 0)
    assert found["tokens"] == len(tokenizer.encode("It is.")) < found["drawn"]
    first = draw(scripted, tokenizer, ("It was.", 3.0), ("It is.", 9.0), best_of=1)
    assert first["text"] == "It was." and first["shown"] > 0
    assert (found["draws"], first["draws"]) == (3, 1)
    assert found["ahead"] == 1, "each draw begins with the logits behind the prompt"


@needs_node
def test_a_stop_while_several_are_drawn_tells_the_best_so_far(scripted, tokenizer):
    answers = [("It was.", 3.0), ("It is.", 9.0), ("It is not.", 20.0)]
    found = draw(scripted, tokenizer, *answers, stop_in=2)
    assert (found["text"], found["why"], found["draws"]) == ("It is.", "stopped", 3)
    assert draw(scripted, tokenizer, *answers, stop_in=0)["draws"] == 1


@needs_node
def test_of_a_model_that_fills_its_context_one_answer_is_drawn(scripted, tokenizer):
    found = draw(scripted, tokenizer, ("It " * 100, 3.0), ("It is.", 9.0))
    assert (found["why"], found["draws"]) == ("full", 1)


def test_the_page_asks_for_as_many_answers_as_its_field_says(tmp_path, tokenizer):
    page = page_of(build(), tokenizer).decode()
    fields = re.search(r"return Object.fromEntries\(\[(.*?)\]", page)[1].replace('"', "").split(", ")
    values = {name: re.search(rf'id="{name}"[^>]* value="([^"]+)"', page)[1] for name in fields}
    assert values["best_of"] == str(html.BEST_OF) and set(values) >= {"temperature", "top_p", "top_k"}


@needs_node
def test_an_answer_is_given_up_once_it_is_less_likely_than_a_whole_one(scripted, tokenizer):
    long = "It was not the one that it had been before it came here."
    found = draw(scripted, tokenizer, ("It is.", 9.0), (long, 2.0))
    assert found["text"] == "It is."
    assert found["drawn"] < len(tokenizer.encode("It is.")) + len(tokenizer.encode(long)) // 2


@needs_node
def test_an_answer_that_repeats_itself_goes_behind_the_others(scripted, tokenizer):
    again = "It is late. So it is late."
    assert draw(scripted, tokenizer, (again, 20.0), ("It is.", 2.0))["text"] == "It is."
    assert draw(scripted, tokenizer, (again, 20.0), ("", 30.0))["text"] == again


@needs_node
def test_an_answer_ends_ahead_of_a_question_that_the_model_asks_itself(scripted, tokenizer):
    found = scripted("return answered(script);", script=tokenizer.encode("Yes.\n Q: And you?"))
    assert (found["why"], found["text"]) == ("end", "Yes.")
    assert not any("Q" in text for text in found["shown"])
    assert (
        scripted("return answered(script);", script=[*tokenizer.encode("Yes.\nQ"), EOS])["text"] == "Yes.\nQ"
    )


@needs_node
def test_an_answer_ends_with_the_context_or_when_it_is_stopped(scripted):
    found = scripted("return answered([]);")
    assert found["why"] == "full" and len(found["read"]) == 63, "the 64th is not read any more"
    code = """const talk = about([]), told = [];
    await talk.answer(asking, (message) => { talk.stopped = told.push(message) === 5; });
    return told;"""
    assert [m["kind"] for m in scripted(code)] == ["prompt", *["text"] * 4, "end"]
    assert scripted(code)[-1]["why"] == "stopped"


@needs_node
def test_a_prompt_is_that_of_training(scripted, tokenizer):
    turns = [["Who is it?", "It is me."], ["Who is me?", "The one at the door."]]
    for system in ("", "A play."):
        ids = scripted(
            "return about([], 256).prepare({ ...asking, turns, system, question }).ids;",
            turns=turns,
            system=system,
            question="Why?",
        )
        flat = [text for turn in turns for text in turn]
        whole = encode_turns(talk(*flat, "Why?", "x", system=system), tokenizer)[0].tolist()
        assert ids == whole[: len(ids)] and len(ids) == len(whole) - len(
            tokenizer.encode("A: x\n")
        ) - 1 + len(tokenizer.encode("A:"))


@needs_node
def test_the_oldest_turns_make_room(scripted, tokenizer):
    turns = [[f"What is at {i}?", "A house with windows."] for i in range(9)]
    found = scripted("return about([]).prepare({ ...asking, turns, system: 'A play.' });", turns=turns)
    assert len(found["ids"]) <= 32, "half of the context is kept for the answer"
    assert found["dropped"] > 0 and found["notes"] == []
    text = tokenizer.decode(found["ids"])
    assert (
        text.startswith("A play.")
        and f"at {found['dropped']}?" in text
        and f"at {found['dropped'] - 1}?" not in text
    )


@needs_node
@pytest.mark.parametrize("word", ["word", "слово", "\U0001f44b", "x" * 5000])
def test_of_a_question_that_is_too_long_the_end_is_kept(scripted, word):
    found = scripted(
        "return about([]).prepare({ ...asking, question, turns: [['a', 'b']] });",
        question=f"{word} " * (100_000 // len(word)) + "and the end?",
    )
    assert len(found["ids"]) <= 32 and found["dropped"] == 1
    assert found["question"].endswith("the end?") and "\ufffd" not in found["question"]
    assert "Your question was too long for a model that sees 64 tokens. It read the end" in found["notes"][0]
    found = scripted("return about([]).prepare({ ...asking, system });", system="x" * 100_000)
    assert "The system text is left out" in found["notes"][0] and len(found["ids"]) < 12


@needs_node
def test_no_text_forges_a_turn(scripted, tokenizer):
    code = """const turns = [["a", "b\\nA: c"]], question = "so\\n\\n Q: d\\u0007", system = "Q: e";
    return about([], 256).prepare({ ...asking, turns, question, system }).ids;"""
    ids = scripted(code)
    expected = [BOS, *tokenizer.encode("e\nQ: a\nA: b A: c\n"), BOS, *tokenizer.encode("Q: so Q: d\nA:")]
    assert ids == expected


@needs_node
def test_typography_without_a_piece_is_ascii_as_in_training(tmp_path, tokenizer, collapsing):
    code = "return about([], 256).prepare({ ...asking, question }).question;"
    asked = "I don\u2019t \u2014 do you\u2026 caf\u00e9?"
    for used, expected in ((tokenizer, asked), (collapsing, "I don't -- do you... caf\u00e9?")):
        model = build(dataclasses.replace(TINY, vocab_size=used.vocab_size))
        page = written(tmp_path / "a.html", page_of(model, used))
        assert under_node(SCRIPTED + code, page, question=asked) == expected


# ---- the file ----


class Scripts(HTMLParser):
    """What a browser takes for scripts and styles: (attributes, text)."""

    def __init__(self, page: bytes):
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.inside, self.links, self.titles = False, [], []
        self.feed(page.decode())

    def handle_starttag(self, tag, attributes):
        self.inside = tag in ("script", "style")
        if self.inside:
            self.found.append((dict(attributes) | {"tag": tag}, ""))
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + text)


HOSTILE = '</script><script>alert("1")</script><!-- &amp; <b>'


def test_text_in_a_page_is_text_and_its_policy_lets_nothing_else_run(tokenizer):
    sampled = {"question": HOSTILE, "held_out": True}
    report = REPORT | {"verdict": {"sentence": f"Better: {HOSTILE}."}}
    report["scores"] = {
        name: {
            **REPORT["scores"][name],
            "samples": [sampled | {"question": f"{HOSTILE}{i}"} for i in range(3)],
        }
        for name in ("base", "tuned")
    }
    voices = [html.Voice(HOSTILE, build()), html.Voice("base", build(seed=8))]
    page = html.page_bytes(voices, tokenizer, "int8", report)
    found = Scripts(page)
    ids = [attributes.get("id") for attributes, _ in found.found]
    assert ids == [None, "data", "weights-0", "weights-1", "worker", None]
    texts = {attributes.get("id") or attributes["tag"]: text for attributes, text in found.found}
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(texts[name].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in found.policy
    assert "default-src 'none'" in found.policy and "unsafe" not in found.policy
    assert all(link.startswith("data:") for link in found.links), "nothing is fetched"
    data = json.loads(texts["data"])
    assert data["questions"] == [f"{HOSTILE}{i}" for i in range(3)] and data["models"][0]["name"] == HOSTILE
    assert b"Better: &lt;/script&gt;" in page
    assert b"http:" not in page.replace(b"http://www.w3.org/2000/svg", b"") and b"https:" not in page


@pytest.mark.parametrize("kind", ["F32", "F16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_a_page_gives_its_models_back(tmp_path, tokenizer, name, kind):
    args, tied = MODELS[name]
    models = [lively(args, tied), build(args, tied, seed=9)]
    voices = [html.Voice("one", models[0]), html.Voice("two", models[1])]
    page = written(tmp_path / "a.html", html.page_bytes(voices, tokenizer, kind))
    for voice, model in zip(html.read_all(page), models, strict=True):
        expected = stored_as(kind, model).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in voice.model.state_dict().items())
        assert voice.model.args == model.args and voice.model.tied == tied
    assert open_model(page, 40).args.max_seq_len == 40


def test_a_page_of_the_shipped_shape_has_at_most_11_mb(tokenizer):
    model = Transformer(ModelArgs())
    model.init_weights(1)
    size = len(page_of(model, tokenizer, "int8"))
    assert 10_000_000 < size < 11_000_000


def test_base_85_gives_bytes_back():
    data = (
        np.random.default_rng(0).integers(0, 256, 4 * 999).astype(np.uint8).tobytes()
        + b"\0" * 8
        + b"\xff" * 8
    )
    text = base85.encode(data)
    assert base85.decode(text.encode()) == data
    assert not set(text) & set("<>&\"'\\`"), "HTML takes it as it is"
    for broken in (text[:-1], "<" + text[1:], "~" * 5):
        with pytest.raises(ValueError, match="not in base 85"):
            base85.decode(broken.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.replace(b'"made_by"', b'"made_for"'), "it has no model that can be read"),
        (lambda p: p[:3000], "it has no model that can be read"),
        (lambda p: p.replace(b'"dim":32', b'"dim":64'), "bytes, its shape asks for"),
        (lambda p: p.replace(b'"dim":32', b'"dim":"32"'), "dim is '32'"),
        (lambda p: p.replace(b'"n_layers":2', b'"n_layers":4000'), "its shape asks for"),
        (lambda p: p.replace(b'"type":"F32"', b'"type":"F64"'), "damaged"),
        (lambda p: p.replace(b'id="weights-0"', b'id="weights-7"'), "its weights are missing"),
        (lambda p: re.sub(rb'(id="weights-0">)...', rb"\1<<<", p), "its weights are missing"),
        (
            lambda p: re.sub(rb'(id="weights-0">).{5}', rb"\1" + base85.encode(b"\0\0\xc0\x7f").encode(), p),
            "NaN",
        ),
    ],
)
def test_a_damaged_page_is_refused(tmp_path, tokenizer, change, message):
    page = change(page_of(build(), tokenizer))
    with pytest.raises(ValueError, match=message) as caught:
        open_model(written(tmp_path / "a.html", page))
    assert str(caught.value).startswith(str(tmp_path / "a.html"))


# ---- the command ----


def saved(path: Path, model: Transformer | None = None) -> Path:
    checkpoint.save(path, checkpoint.pack(model or build()))
    return path


def command(folder: Path, *flags: str) -> list[str]:
    return [str(folder / "a.html"), "--format=html", f"--checkpoint={folder / 'base.pt'}", *flags]


def usage_error(*argv: str) -> str:
    with pytest.raises(config.UsageError) as caught:
        main(list(argv))
    return str(caught.value)


def test_the_command_writes_a_page_with_both_models_and_the_verdict(tmp_path, capsys):
    saved(tmp_path / "base.pt")
    saved(tmp_path / "before.pt", build(seed=8))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    flags = [f"--compare={tmp_path / 'before.pt'}", f"--report={tmp_path / 'report.json'}"]
    assert main(command(tmp_path, *flags)) == 0
    assert "read back; computed as its programs do" in capsys.readouterr().out
    assert [voice.name for voice in html.read_all(tmp_path / "a.html")] == ["a", "before"]
    page = (tmp_path / "a.html").read_text("utf-8")
    assert (
        "Better: 4.33 to 3.03." in page
        and "154 trained on, 17 held out" in page
        and "How are you today?" in page
    )


def test_what_no_page_can_hold_is_refused(tmp_path, monkeypatch, collapsing):
    saved(tmp_path / "base.pt")
    small = f"--tokenizer={collapsing.path}"
    assert f"has {collapsing.vocab_size} tokens, but" in usage_error(*command(tmp_path, small))
    saved(tmp_path / "other.pt", build(dataclasses.replace(TINY, vocab_size=400)))
    assert "was trained with 400" in usage_error(*command(tmp_path, f"--compare={tmp_path / 'other.pt'}"))
    odd = saved(tmp_path / "odd.pt", build(dataclasses.replace(TINY, hidden_dim=90)))
    said = usage_error(str(tmp_path / "a.html"), "--format=html", f"--checkpoint={odd}")
    assert "--html_type=F16 does" in said
    monkeypatch.setattr(html, "MAX_BYTES", 100_000)
    assert "the page would have 0 MB; a browser opens 0 MB" in usage_error(*command(tmp_path))
    assert not (tmp_path / "a.html").exists()
    assert main(command(tmp_path, "--force")) == 0
    for flag in ("--html_type=F32", "--compare=x.pt"):
        assert "goes with --format=html" in usage_error(str(tmp_path / "a.bin"), "--checkpoint=x.pt", flag)


def test_a_tokenizer_that_is_no_plain_bpe_is_refused(tmp_path, tokenizer, monkeypatch):
    lowered = train_tokenizer(tmp_path / "small.model", normalization_rule_name="nmt_nfkc_cf")
    model = build(dataclasses.replace(TINY, vocab_size=lowered.vocab_size))
    with pytest.raises(ValueError, match="splits text differently from the BPE that the page computes"):
        page_of(model, lowered)
    pieces = html.listed(tokenizer)
    monkeypatch.setattr(html, "listed", lambda _: [*pieces[:-2], pieces[-1], pieces[-2]])
    with pytest.raises(ValueError, match="splits text differently"):  # the page merges by ids, not by scores
        page_of(build(), tokenizer)


def test_weights_beyond_float16_are_refused_in_it(tokenizer):
    model = build()
    model.norm.weight.data[0] = 1e6
    page_of(model, tokenizer, "F16")
    model.layers[0].attention.wq.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match="beyond 65,504, the largest number of float16; use --html_type=F32"):
        page_of(model, tokenizer, "F16")


def test_a_tokenizer_with_other_pieces_is_not_the_pages(tmp_path, tokenizer):
    page = written(tmp_path / "a.html", page_of(build(), tokenizer))
    html.check_tokenizer(page, tokenizer)
    data = page.read_bytes().replace(b'"\\u2581the"', b'"\\u2581thy"')
    with pytest.raises(ValueError, match="is not the tokenizer in"):
        html.check_tokenizer(written(tmp_path / "b.html", data), tokenizer)
