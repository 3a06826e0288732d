import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONVERSATIONS, LONG, ROOT, SHORT, TINY, TURNS, build, rows_of, talk
from hypothesis import given
from hypothesis import strategies as st

from arianna import evaluate
from arianna.corpus.encoding import ANSWER, encode_turns
from arianna.evaluate import answer_loss, generate_answers, question_gain, text_loss
from arianna.formats import checkpoint
from arianna.scoring import answers, bootstrap, losses, text_statistics
from arianna.system import config
from arianna_data import Rows
from model import Transformer
from tokenizer import BOS, EOS


class Stub(Transformer):
    """A model whose loss is what a function of inputs and targets, both (B, T), says."""

    def __init__(self, loss=lambda x, y: torch.ones(y.shape)):
        super().__init__(TINY)
        self.loss = loss

    def nll(self, tokens, targets):
        return torch.where(targets >= 0, self.loss(tokens, targets), 0.0)


@pytest.fixture
def rows(tokenizer, tmp_path) -> Rows:
    return rows_of(CONVERSATIONS, tokenizer, tmp_path)


def text_rows(tokens, folder: Path, context: int = 64) -> Rows:
    (folder / "text.bin").write_bytes(np.asarray(tokens, dtype="<u2").tobytes())
    return Rows(folder, "text", context, 4096)


# ---- the loss on answers ----


def test_conversations_add_up_to_the_whole(rows):
    score = answer_loss(build(), rows)
    assert math.isclose(sum(score.conversation_nats), score.loss * score.tokens, rel_tol=1e-12)
    assert sum(score.conversation_tokens) == score.tokens and math.isclose(score.perplexity, math.exp(score.loss))


def test_further_rows_belong_to_the_conversation_before(rows, tokenizer):
    assert len(rows) >= len(CONVERSATIONS) + 2, "the long one needs several rows"
    expected = [int((encode_turns(c, tokenizer)[1] & ANSWER > 0).sum()) for c in CONVERSATIONS]
    assert answer_loss(Stub(), rows).conversation_tokens == expected


def test_each_conversation_is_scored_by_itself(rows, tokenizer, tmp_path):
    model = build()
    together = answer_loss(model, rows)
    for i in (0, 4, 5):
        alone = answer_loss(model, rows_of([CONVERSATIONS[i]], tokenizer, tmp_path / str(i)))
        assert math.isclose(alone.loss * alone.tokens, together.conversation_nats[i], rel_tol=1e-5)


def test_the_end_of_an_answer_is_scored_apart(rows, tokenizer):
    end = (BOS, tokenizer.encode("a\n")[-1])
    score = answer_loss(Stub(lambda x, y: torch.where((y == end[0]) | (y == end[1]), 5.0, 2.0)), rows)
    assert (score.loss, score.terminator_loss) == (2.0, 5.0)


def test_at_most_so_many_rows_are_scored_always_the_same(rows):
    model, some = build(), 5
    score = answer_loss(model, rows, some)
    assert score.tokens < answer_loss(model, rows).tokens and len(score.conversation_nats) <= some
    assert score == answer_loss(model, rows, some)
    assert answer_loss(model, rows, 1000) == answer_loss(model, rows)


def test_a_score_is_plain_numbers(rows):
    score = dataclasses.asdict(answer_loss(build(), rows))
    assert {type(v) for v in score["conversation_nats"]} == {float} and {type(v) for v in score["conversation_tokens"]} == {int}
    assert [type(score[name]) for name in ("loss", "terminator_loss", "tokens")] == [float, float, int]


# ---- the loss on text ----


def test_every_token_of_a_text_but_the_first_is_scored(tmp_path):
    rows = text_rows(np.arange(300, 500), tmp_path)
    score = text_loss(build(), rows)
    assert score.tokens == sum(score.row_tokens) == 199 and score.row_tokens == [64, 64, 64, 7]
    as_answers = answer_loss(build(), rows)
    assert math.isclose(score.loss, as_answers.loss, rel_tol=1e-6) and score.bits_per_byte is None
    assert math.isnan(as_answers.terminator_loss), "a text has no end that is scored apart"


def test_where_another_text_begins_is_not_scored_as_text(tmp_path):
    tokens = [BOS, 300, 301, BOS, 302, BOS]
    score = text_loss(Stub(lambda x, y: torch.where(y == BOS, 9.0, 1.0)), text_rows(tokens * 30, tmp_path))
    assert (score.loss, score.tokens) == (1.0, 90)


def test_questions_count_in_the_loss_on_text(tokenizer, tmp_path):
    tokens = sum(int((encode_turns(c, tokenizer)[0] != BOS).sum()) for c in SHORT)
    assert text_loss(Stub(), rows_of(SHORT, tokenizer, tmp_path)).tokens == tokens


def test_bits_a_byte_are_counted_in_bytes_of_the_text(tokenizer, tmp_path):
    text = "The café — at the harbour — was full of 31 £ fish \u2603."
    tokens = tokenizer.encode(text, bos=True)
    assert 3 < min(tokens[1:]) < 259, "the snowman is spelled in bytes"
    score = text_loss(Stub(lambda x, y: torch.full(y.shape, math.log(2))), text_rows([*tokens, EOS], tmp_path), tokenizer=tokenizer)
    n_bytes = len(f" {text}".encode())  # the tokenizer begins a text with a space
    assert math.isclose(score.bits_per_byte, len(tokens) / n_bytes, rel_tol=1e-6)


def test_forgetting_is_the_rise_of_the_loss(tokenizer, tmp_path):
    rows = text_rows(np.arange(300, 300 + 64 * 9), tmp_path)
    base, tuned = (text_loss(Stub(lambda x, y, c=c: torch.full(y.shape, c)), rows, tokenizer=tokenizer) for c in (1.0, 1.25))
    rise = evaluate.forgetting(base, tuned)
    assert [math.isclose(rise[name], 0.25) for name in ("value", "low", "high")] == [True] * 3
    assert math.isclose(rise["bits_per_byte"], tuned.bits_per_byte - base.bits_per_byte) and rise["bits_per_byte"] > 0
    few = losses.TextLoss(1.0, None, 10, [10.0], [10])
    assert evaluate.forgetting(few, few) == {"value": 0.0, "low": None, "high": None, "bits_per_byte": None}


# ---- question gain ----


def seen_before(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 nat for a token that stands earlier in the row, else 4."""
    earlier = (x[:, None, :] == y[:, :, None]) & torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril()
    return torch.where(earlier.any(-1), 1.0, 4.0)


ECHOES = [talk(f"Say {w}.", f"{w} {w}") for w in ("house", "river", "stone", "bread", "window", "garden", "letter", "winter")]


def test_a_model_that_ignores_questions_gains_nothing(tokenizer):
    gain = question_gain(Stub(lambda x, y: (y % 7).float()), [*ECHOES, LONG, TURNS], tokenizer, 64)
    assert (gain["value"], gain["low"], gain["high"]) == (0, 0, 0) and set(gain["conversation_nats"]) == {0.0}


def test_answers_that_depend_on_their_questions_gain(tokenizer):
    gain = question_gain(Stub(seen_before), ECHOES, tokenizer, 64)
    assert gain["low"] > 0 and gain["value"] == sum(gain["conversation_nats"]) / sum(gain["conversation_tokens"])
    assert all(nats >= 3 for nats in gain["conversation_nats"]), "each finds its word in its own question only"


def test_the_same_answer_tokens_are_scored_under_both_questions(tokenizer):
    targets = []

    def note(x, y):
        targets.extend(line[line >= 0].tolist() for line in y)
        return torch.ones(y.shape)

    long_question = talk("Tell me " + "very " * 90 + "much.", "No.")
    question_gain(Stub(note), [*ECHOES, LONG, TURNS, long_question], tokenizer, 64)
    assert len(targets) == 22 and all(targets.count(t) % 2 == 0 for t in targets)
    assert tokenizer.encode("No.")[:1] in [t[:1] for t in targets], "an answer is left under a question that is too long"


def test_only_first_turns_count_in_the_question_gain(tokenizer):
    first = [talk(*c.turns[0], system=c.system) for c in [*ECHOES, TURNS]]
    assert question_gain(build(), [*ECHOES, TURNS], tokenizer, 64) == question_gain(build(), first, tokenizer, 64)


@given(st.lists(st.sampled_from("abcdef"), max_size=24), st.integers(0, 5))
def test_partners_have_another_question_and_nobody_is_left_out_without_need(keys, seed):
    found = losses.partners(keys, seed)
    assert all(keys[i] != keys[j] for i, j in found) and len({i for i, _ in found}) == len(found) == len({j for _, j in found})
    if max(map(keys.count, keys), default=0) * 2 <= len(keys):
        assert len(found) == len(keys)
    assert found == losses.partners(keys, seed)


# ---- intervals ----


def conversations_of(difference: float, scatter: float = 0.05, n: int = 17, seed: int = 0) -> tuple[list[float], list[int]]:
    """Nats and tokens of n conversations, `difference` nats a token over those of seed 0 without one."""
    tokens = np.random.default_rng(1).integers(40, 250, n)
    base = np.random.default_rng(2).normal(3.4, 0.4, n)
    own = difference + scatter * np.random.default_rng([3, seed]).normal(size=n) if difference or seed else 0
    return (tokens * (base + own)).tolist(), tokens.tolist()


BASE = conversations_of(0)


def test_the_base_against_itself_differs_by_nothing():
    found = bootstrap.bootstrap(BASE, {100: BASE, 200: BASE})
    assert dataclasses.astuple(found) == (100, 0.0, 0.0, 0.0, 0.0)


def test_noise_around_the_base_has_zero_in_its_interval():
    found = bootstrap.bootstrap(BASE, {step: conversations_of(0, 0.2, seed=step) for step in range(1, 11)})
    assert found.low < 0 < found.high


def test_a_clear_gain_excludes_zero_and_a_clear_loss_too():
    better = bootstrap.bootstrap(BASE, {100: conversations_of(-0.5, seed=1)})
    worse = bootstrap.bootstrap(BASE, {100: conversations_of(0.5, seed=1)})
    assert better.low < better.value < better.high < 0 < worse.low


def test_the_bootstrap_says_the_same_twice():
    checkpoints = {step: conversations_of(-0.1, seed=step) for step in (100, 200)}
    assert bootstrap.bootstrap(BASE, checkpoints) == bootstrap.bootstrap(BASE, dict(reversed(checkpoints.items())))


def test_the_difference_is_one_of_sums_and_the_lowest_is_taken():
    """The second is worse on each short conversation and has the worse mean of means, but the lower loss a token."""
    tokens = [10] * 4 + [40] * 4
    base, first, second = [30.0] * 4 + [120.0] * 4, [25.0] * 4 + [100.0] * 4, [35.0] * 4 + [88.0] * 4
    found = bootstrap.bootstrap((base, tokens), {100: (first, tokens), 200: (second, tokens)})
    assert found.step == 200 and math.isclose(found.value, (4 * 35 + 4 * 88) / 200 - 3)


def test_the_choice_is_made_again_on_each_resample_and_scored_on_the_others():
    """Twenty checkpoints of pure noise: the best seems better than the base, on conversations left out of the choice it is not."""
    checkpoints = {step: conversations_of(0, 0.3, seed=step) for step in range(1, 21)}
    found = bootstrap.bootstrap(BASE, checkpoints)
    alone = bootstrap.bootstrap(BASE, {found.step: checkpoints[found.step]})
    assert found.value == alone.value < -0.08
    assert found.unseen > 0.5 * found.value and found.high > alone.high
    assert abs(alone.unseen - alone.value) < 0.02, "without a choice there is nothing to be too kind about"


@pytest.mark.parametrize(("n", "told"), [(7, False), (8, True)])
def test_too_few_conversations_have_no_interval(n, told):
    assert (bootstrap.bootstrap(conversations_of(0, n=n), {1: conversations_of(-1, n=n, seed=1)}) is not None) == told


def test_conversations_without_a_scored_token_do_not_count():
    nats, tokens = conversations_of(-1, n=8, seed=1)
    assert bootstrap.bootstrap((nats[:-1] + [0.0], tokens[:-1] + [0]), {1: (nats[:-1] + [0.0], tokens[:-1] + [0])}) is None


def test_other_conversations_cannot_be_compared():
    with pytest.raises(ValueError, match="same conversations"):
        bootstrap.bootstrap(BASE, {1: conversations_of(0, n=16)})
    with pytest.raises(ValueError, match="0 checkpoints"):
        bootstrap.bootstrap(BASE, {})


def test_a_ratio_is_one_of_sums_with_an_interval_around_it():
    found = bootstrap.ratio([1, 0, 3, 2, 0, 1, 1, 0, 5], [10, 10, 40, 20, 5, 10, 10, 0, 0])
    assert found == {"value": 8 / 105, "low": None, "high": None}, "two have nothing to be divided by"
    found = bootstrap.ratio([1, 0, 3, 2, 0, 1, 1, 0], [10, 10, 40, 20, 5, 10, 10, 10])
    assert found["value"] == 8 / 115 and 0 < found["low"] < 8 / 115 < found["high"] < 0.15
    assert bootstrap.ratio([0.0], [0]) == {"value": None, "low": None, "high": None}


# ---- generated answers ----


class Scripted(Transformer):
    """A model that says what it is told to, question by question, and then one word for ever."""

    def __init__(self, tokenizer, says: dict[str, str], then: dict[str, int], context: int = 64, end: int | None = None):
        super().__init__(dataclasses.replace(TINY, max_seq_len=context))
        self.tokenizer, self.says, self.then, self.end, self.batches = tokenizer, says, then, end, []

    def stream(self, prompts, max_new_tokens, stop, **sampling):
        self.batches.append((prompts, sampling))
        lengths = [len(p) for p in prompts]
        lines = []
        for prompt in prompts:
            asked = re.match(r"Q: (.*)\nA:$", self.tokenizer.decode(prompt[1:]))[1]
            lines.append([*prompt, *self.tokenizer.encode(self.says[asked]), *[self.then[asked]] * 200])
        going = dict.fromkeys(range(len(lines)), True)
        for position in range(min(lengths), min(max(lengths) + max_new_tokens, self.args.max_seq_len)):
            tokens = [BOS if position == self.end else line[position] for line in lines]
            yield [token if going[i] else -1 for i, token in enumerate(tokens)]
            going = {i: going[i] and (position < lengths[i] or tokens[i] not in stop) for i in going}


WORD = 300


def said(tokenizer, text: str, then: int, **how) -> answers.Answer:
    (answer,) = generate_answers(Scripted(tokenizer, {"Why?": text}, {"Why?": then}), tokenizer, ["Why?"], samples_each=1, **how)
    return answer


@pytest.mark.parametrize("stop", [BOS, EOS])
def test_an_answer_that_ends_by_itself_is_stopped(tokenizer, stop):
    found = said(tokenizer, "Because it is so.\n", stop)
    assert found == answers.Answer("Why?", "Because it is so.", True, True, len(tokenizer.encode("Because it is so.\n")))


def test_an_answer_that_reaches_the_context_is_neither_stopped_nor_whole(tokenizer):
    found = said(tokenizer, "Because", WORD)
    assert (found.stopped, found.whole) == (False, False)
    assert found.tokens + len(tokenizer.encode("Q: Why?\nA:", bos=True)) == 64


@pytest.mark.parametrize("turn", ["\nQ: And then? He", "\n  Q:"])
def test_an_answer_is_cut_at_a_line_that_asks_and_does_not_count_as_stopped(tokenizer, turn):
    found = said(tokenizer, f"Because.{turn}", BOS)
    assert (found.text, found.stopped, found.whole) == ("Because.", False, True)
    cut = f"Because.{turn}"
    assert found.tokens == len(tokenizer.encode(cut[: cut.index("Q:") + 2]))


def test_a_question_within_a_line_cuts_nothing(tokenizer):
    assert said(tokenizer, "He wrote Q: and A: on it.", BOS).text == "He wrote Q: and A: on it."


@pytest.mark.parametrize(("end", "stopped"), [(63, True), (64, False)])
def test_the_bases_context_holds_for_a_model_with_a_longer_one(tokenizer, end, stopped):
    prompt = len(tokenizer.encode("Q: Why?\nA:", bos=True))
    model = Scripted(tokenizer, {"Why?": "Because"}, {"Why?": WORD}, context=96, end=end)
    (found,) = generate_answers(model, tokenizer, ["Why?"], samples_each=1, context=64)
    assert (found.stopped, found.tokens) == (stopped, end - prompt if stopped else 64 - prompt)


def test_answers_come_in_the_order_of_their_questions_whatever_the_batches(tokenizer):
    questions = ["What is a very long question good for, if anything?", "Why?", "What now?"]
    model = Scripted(tokenizer, {q: f"{q.upper()} Yes." for q in questions}, dict.fromkeys(questions, BOS))
    found = generate_answers(model, tokenizer, questions, samples_each=3, rows_at_a_time=2)
    assert [(a.question, a.text) for a in found] == [(q, f"{q.upper()} Yes.") for q in questions for _ in range(3)]
    assert [len(prompts) for prompts, _ in model.batches] == [2, 2, 2, 2, 1]
    lengths = [len(p) for prompts, _ in model.batches for p in prompts]
    assert lengths == sorted(lengths), "questions of like length are answered together"
    assert len({sampling["seed"] for _, sampling in model.batches}) == 5, "no two batches draw the same numbers"


def test_no_questions_have_no_answers(tokenizer):
    assert generate_answers(build(), tokenizer, []) == []


def test_sampled_answers_are_the_same_twice_and_others_with_another_seed(tokenizer):
    questions = ["Why?", "What is a river?"]
    first, again, other = (generate_answers(build(), tokenizer, questions, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 10
    assert len({a.text for a in first}) == 10, "samples of one question differ"


def test_a_question_that_is_too_long_keeps_its_end(tokenizer):
    model = build()
    prompts = []
    generate = model.generate
    model.generate = lambda p, *a, **k: prompts.extend(p) or generate(p, *a, **k)
    (found,) = generate_answers(model, tokenizer, ["word " * 100 + "at last?"], samples_each=1)
    assert prompts[0][0] == BOS and len(prompts[0]) == 48 and tokenizer.decode(prompts[0]).endswith("at last?\nA:")
    assert found.tokens <= 16


def test_the_system_text_stands_ahead_of_the_question(tokenizer):
    model, prompts = build(), []
    model.generate = lambda p, *a, **k: prompts.extend(p) or [[] for _ in p]
    generate_answers(model, tokenizer, ["Why?", "How?"], ["Be brief.", ""], samples_each=1)
    assert sorted(tokenizer.decode(p) for p in prompts) == ["Be brief.\nQ: Why?\nA:", "Q: How?\nA:"]


def test_a_glimpse_is_three_short_answers_on_a_line_each_and_always_the_same(tokenizer):
    model, other = build(), build(seed=8)
    state = torch.get_rng_state()
    found = answers.glimpse(model, tokenizer)
    assert tuple(found) == answers.ASKED and found == answers.glimpse(model, tokenizer) != answers.glimpse(other, tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    asked = []
    model.generate = lambda p, most, **k: asked.append(most) or [tokenizer.encode("a\n\x1b[31mb\tc") for _ in p]
    model.args = dataclasses.replace(TINY, max_seq_len=256)
    assert set(answers.glimpse(model, tokenizer).values()) == {"a [31mb c"} and asked == [answers.GLIMPSE]


# ---- everything ----


def furnish(folder: Path, tokenizer) -> dict[str, str]:
    """Flags for a folder with 30 conversations, a base and a tuned model of a longer context, a text, and a word list."""
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"prompt": f"What stands at {i}?", "completion": f"At {i} stands a house with a «zblorg» of its own."})
        for i in range(30)
    ]
    (folder / "talk.jsonl").write_text("\n".join(lines))
    (folder / "text.txt").write_text("\n\n".join(f"Paragraph {i} of the qwertish book says what it says. " * 8 for i in range(60)))
    (folder / "words.txt").write_text("at\nstands\n")
    (folder / "questions.txt").write_text("\ufeffhi\n\nwho is «it»?\n", encoding="utf-8")
    checkpoint.save(folder / "base.pt", checkpoint.pack(build()))
    checkpoint.save(folder / "tuned.pt", checkpoint.pack(build(dataclasses.replace(TINY, max_seq_len=96), seed=8)))
    checkpoint.save(folder / "other.pt", checkpoint.pack(build(dataclasses.replace(TINY, vocab_size=512))))
    names = {"checkpoint": "tuned.pt", "compare": "base.pt", "conversations": "talk.jsonl", "base_text": "text.txt"}
    names |= {"words": "words.txt", "questions": "questions.txt", "out": "scores.json"}
    return {n: str(folder / f) for n, f in names.items()} | {"tokenizer": str(ROOT / "data/tok4096.model"), "samples_each": "2"}


def run(flags: dict[str, str]) -> int:
    return evaluate.main([f"--{name}={value}" for name, value in flags.items()])


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tokenizer) -> tuple[dict[str, str], str]:
    flags = furnish(tmp_path_factory.mktemp("all"), tokenizer)
    assert run(flags) == 0
    return flags, Path(flags["out"]).read_text()


def without_times(text: str) -> str:
    found = json.loads(text)
    assert [set(found[name].pop("times")) for name in ("checkpoint", "compare")] == [{"losses", "generation", "tokens_per_second"}] * 2
    return json.dumps(found)


def test_two_scorings_differ_in_nothing_but_the_times(scored):
    flags, first = scored
    run(flags)
    assert without_times(Path(flags["out"]).read_text()) == without_times(first)


def test_scoring_takes_one_thread_and_leaves_as_many_as_before(rows, tokenizer):
    found = []

    def note(x, y):
        found.append(torch.get_num_threads())
        return torch.ones(y.shape)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        evaluate.score_model(Stub(note), evaluate.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(), tokenizer), samples_each=1)
        assert set(found) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_all_scores_are_there_for_both_models(scored):
    found = json.loads(scored[1])
    for name in ("checkpoint", "compare"):
        scores = found[name]
        assert len(scores["answers"]["conversation_nats"]) == 8 and set(scores["base_text"]) == {"samples", "text"}
        assert len(scores["samples"]) == 2 * (8 + 2) == scores["generated"]["answers"]
        assert [s["held_out"] for s in scores["samples"]] == [True] * 16 + [False] * 4
        assert {s["question"] for s in scores["samples"][16:]} == {"hi", 'who is "it"?'}
        assert all(s["tokens"] < 64 for s in scores["samples"]), "in the base's context"
        marked = sum(len(s["non_words"]) for s in scores["samples"])
        assert 0 < scores["generated"]["non_words"]["low"] < 100 and marked > 0
    assert set(found["difference"]["forgetting"]) == {"samples", "text"}
    assert found["difference"]["answers"]["value"] != 0


def test_the_base_against_itself_differs_by_nothing_at_all(scored, tmp_path, capsys):
    assert run(scored[0] | {"checkpoint": scored[0]["compare"], "out": str(tmp_path / "same.json")}) == 0
    found = json.loads((tmp_path / "same.json").read_text())
    assert found["difference"]["answers"] == {"step": 1, "value": 0, "unseen": 0, "low": 0, "high": 0}
    assert {name: rise["value"] for name, rise in found["difference"]["forgetting"].items()} == {"samples": 0, "text": 0}
    assert found["checkpoint"]["samples"] == found["compare"]["samples"]
    assert "held-out answers: +0.000 nats a token (95%: +0.000 to +0.000)" in capsys.readouterr().out


def test_one_model_alone_is_scored(scored, capsys):
    flags = {name: value for name, value in scored[0].items() if name not in ("compare", "base_text", "out")}
    assert run(flags) == 0
    out = capsys.readouterr().out
    assert "held-out answers, nats a token" in out and "stopped, of 20 answers" in out and "forgetting" not in out


def test_words_of_list_text_and_conversations_count_as_words(scored, tokenizer, tmp_path):
    cfg = config.parse(evaluate.EvaluateConfig, [f"--{n}={v}" for n, v in scored[0].items()], None)
    inputs = evaluate.read_inputs(cfg, build(), tokenizer, tmp_path)
    assert {"stands", "qwertish", "zblorg", "house", "paragraph"} <= inputs.known and "surfive" not in inputs.known
    assert all('"zblorg"' in c.turns[0][1] for c in inputs.held_out) and len(inputs.held_out) == 8, "typography as in the rows"


def test_only_what_was_trained_on_can_have_been_copied(rows, tokenizer):
    train, held_out = [talk("Q", "one two three four five six seven eight")], [talk("Z", "a b c d e f g h i j")]
    inputs = evaluate.make_inputs((train, held_out), rows, {}, [], frozenset(), tokenizer)
    copied = [text_statistics.look_at(c.turns[0][1], (), inputs.source).copied for c in (train[0], held_out[0])]
    assert copied == [1, 0]


def test_a_model_of_a_longer_context_is_scored_in_the_bases(rows, tokenizer):
    inputs = evaluate.make_inputs((SHORT, SHORT), rows, {}, ["Why?"], frozenset(), tokenizer)
    models = build(), build(dataclasses.replace(TINY, max_seq_len=96))
    scores = [evaluate.score_model(model, inputs, samples_each=1) for model in models]
    assert [s.pop("times") for s in scores] and scores[0] == scores[1]


def test_the_word_at_which_the_context_ended_is_not_called_a_non_word(rows, tokenizer, monkeypatch):
    said = [answers.Answer("Why?", "the surf", False, whole, 2) for whole in (False, True)]
    monkeypatch.setattr(evaluate, "generate_answers", lambda *a, **k: said)
    scores = evaluate.score_model(Stub(), evaluate.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(["the"]), tokenizer))
    assert [s["non_words"] for s in scores["samples"]] == [[], [[4, 8]]]
    assert scores["generated"]["non_words"]["value"] == 100 / 3 and scores["generated"]["words"] == 2


def test_a_model_whose_losses_are_no_numbers_is_refused(rows, tokenizer):
    inputs = evaluate.make_inputs((SHORT, SHORT), rows, {}, [], frozenset(), tokenizer)
    with pytest.raises(ValueError, match="not a number"):
        evaluate.score_model(Stub(lambda x, y: torch.full(y.shape, math.nan)), inputs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoint": None}, "--checkpoint is missing"),
        ({"checkpoint": "nowhere.pt"}, "nowhere.pt is missing"),
        ({"compare": "other.pt"}, "has 4096 tokens, but other.pt was trained with 512"),
        ({"words": "nowhere.txt"}, "nowhere.txt cannot be read as text (No such file or directory)"),
        ({"questions": "base.pt"}, "base.pt cannot be read as text"),
        ({"conversations": "words.txt"}, "words.txt:1: "),
        ({"base_text": "words.txt"}, "too short to measure with"),
        ({"temperature": "-1"}, "temperature -1.0"),
        ({"samples_each": "0"}, "samples_each 0"),
        ({"out": "nowhere/scores.json"}, "nowhere is not a folder"),
    ],
)
def test_what_is_wrong_gets_one_sentence(scored, monkeypatch, changes, sentence):
    flags = {name: value for name, value in (scored[0] | changes).items() if value is not None}
    monkeypatch.chdir(Path(scored[0]["out"]).parent)
    with pytest.raises(config.UsageError) as error:
        run(flags)
    assert sentence in str(error.value)
