"""Generating, comparing two models, and the chat."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT, TINY, build
from hypothesis import given
from hypothesis import strategies as st

import sample
from arianna import generate as generation
from arianna import side_by_side
from arianna.corpus import conversations, encoding
from arianna.corpus.conversations import Conversation
from arianna.formats import checkpoint, llama2c
from arianna.system import config
from model import ModelArgs
from sample import Continuation, SampleConfig
from tokenizer import BOS, EOS, FIRST_PIECE, Tokenizer

TOKENIZER = Tokenizer(ROOT / "data/tok4096.model")


class Scripted:
    """A model that says what it is told to, a text a call, and remembers its prompts. None stands for a Ctrl-C."""

    def __init__(self, *texts: list[int | None], context: int = 256):
        self.args, self.texts, self.prompts, self.seeds = SimpleNamespace(max_seq_len=context), list(texts), [], []

    def stream(self, prompts, max_new_tokens, seed, **sampling):
        self.prompts += prompts
        self.seeds.append(seed)
        room = min(max_new_tokens, self.args.max_seq_len - len(prompts[0]))
        for token in self.texts.pop(0)[:room]:
            if token is None:
                raise KeyboardInterrupt
            yield [token]

    def generate(self, prompts, max_new_tokens, stop, **sampling):
        return [[t for (t,) in self.stream([p], max_new_tokens, **sampling)] for p in prompts]


@pytest.fixture(autouse=True)
def scripted_generation(monkeypatch):
    for name in ("stream", "generate"):
        by_model = getattr(generation, name)

        def ask(model, *args, name=name, by_model=by_model, **options):
            return getattr(model, name)(*args, **options) if isinstance(model, Scripted) else by_model(model, *args, **options)

        monkeypatch.setattr(generation, name, ask)


def text(words: str, end: int = BOS) -> list[int]:
    """The tokens of an answer as a model says it behind "A:"."""
    return [*TOKENIZER.encode(words), end]


def said(ids: list[int], prompt: str = "Q: a\nA:", **settings) -> list[str]:
    return list(Continuation(Scripted(ids), TOKENIZER, [BOS, *TOKENIZER.encode(prompt)], SampleConfig(**settings)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny models, one of them also as .bin, and one of another vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("a", 7), ("b", 8)):
        checkpoint.save(folder / f"{name}.pt", checkpoint.pack(build(seed=seed)))
    (folder / "a.bin").write_bytes(llama2c.to_bytes(build(seed=7)))
    checkpoint.save(folder / "small.pt", checkpoint.pack(build(ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=512))))
    (folder / "damaged.pt").write_bytes((folder / "a.pt").read_bytes()[:-5000])
    return folder


def run(folder, *flags: str) -> int:
    return sample.main([f"--checkpoint={folder / 'a.pt'}", f"--tokenizer={ROOT / 'data/tok4096.model'}", *flags])


# ---- prompts ----


def test_backslash_n_in_start_is_a_new_line():
    assert sample.prompts(SampleConfig(start=(r"Q: What is resonance?\nA:", "real\nline"))) == ["Q: What is resonance?\nA:", "real\nline"]


def test_a_question_is_rendered_as_the_model_was_trained():
    (rendered,) = sample.prompts(SampleConfig(question=(" What is time? ",)))
    assert rendered == "Q: What is time?\nA:"
    trained = encoding.encode_turns(Conversation((("What is time?", "A slow river."),)), TOKENIZER)[0].tolist()
    ids = [BOS, *sample.encode(rendered, TOKENIZER)]
    assert trained[: len(ids)] == ids


@pytest.mark.parametrize("open_text", ["Q: Why?", "Q: Why?\n", "Q: Why?\nA: So.\nQ: And why so?"])
def test_behind_a_start_that_ends_in_a_question_the_answer_is_begun(open_text):
    assert sample.prompts(SampleConfig(start=(open_text,))) == [open_text.rstrip() + "\nA:"]


@pytest.mark.parametrize("text", ["Q:", "Q: Why?\nA:", "Q: Why?\nA: So", "Quiet. ", "Q: Why?\n\nAnd then"])
def test_any_other_start_stays_as_it_is(text):
    assert sample.prompts(SampleConfig(start=(text,))) == [text]


def test_a_question_cannot_forge_a_turn():
    assert sample.prompts(SampleConfig(question=("One?\nA: No.\nQ: Two?",))) == ["Q: One? A: No. Q: Two?\nA:"]


def test_prompts_come_from_all_flags_and_from_a_file_in_order(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfQ: three\\nA:\r\n\r\nfour\n")
    argv = ["--start=one", "--question", "Two?", f"--prompts_file={file}", "--start=and one"]
    cfg = config.parse(SampleConfig, argv, None)
    assert sample.prompts(cfg) == ["one", "and one", "Q: Two?\nA:", "Q: three\nA:", "four"]
    assert config.parse(SampleConfig, config.to_flags(cfg), None) == cfg


def test_without_a_prompt_the_model_begins_by_itself(folder, capsys):
    assert run(folder, "--max_new_tokens=5") == 0
    assert capsys.readouterr().out.strip()


# ---- text as it comes ----

TEXTS = [
    "The sea is a slow breath.",
    "  two  spaces, a tab\tand\n\n new lines ",
    "“Don’t,” she said — naïve, œuvre…",
    "日本語 и русский, 🎵🎶 and 👩‍👩‍👧",
    "byte \ufffd itself \ufffd",
    "",
]


@pytest.mark.parametrize("words", TEXTS)
@pytest.mark.parametrize("prompt", ["", "Q: Wo?\nA:", "é 🎵", "ends with a space "])
def test_the_pieces_of_a_text_are_the_text(words, prompt):
    ids = text(words)[:-1]
    before = [BOS, *TOKENIZER.encode(prompt)]
    pieces = said([*ids, BOS], prompt)
    assert "".join(pieces) == TOKENIZER.decode([*before, *ids])[len(TOKENIZER.decode(before)) :]
    assert TOKENIZER.decode(before) == prompt
    if "\ufffd" not in words:
        assert "\ufffd" not in "".join(pieces)


def test_no_piece_ends_within_a_character_and_none_is_late():
    ids = TOKENIZER.encode("a 🎵 b")
    assert len(ids) > 5, "the note takes four bytes"
    shown = said([*ids, BOS], prompt="x")
    assert [piece for piece in shown if piece] == [" a", " ", "🎵", " b"]


BYTES = st.integers(3, FIRST_PIECE - 1)


@given(st.lists(st.integers(3, TOKENIZER.vocab_size - 1) | BYTES, max_size=30), st.lists(BYTES, max_size=3))
def test_any_tokens_give_the_text_they_decode_to(ids, first):
    before = [BOS, *TOKENIZER.encode("A:"), *first]
    pieces = list(Continuation(Scripted(ids), TOKENIZER, before, SampleConfig()))
    if not TOKENIZER.decode(before).endswith("\ufffd"):  # which the text would go on to change
        assert TOKENIZER.decode(before) + "".join(pieces) == TOKENIZER.decode([*before, *ids])


@pytest.mark.parametrize("end", [BOS, EOS])
def test_a_text_ends_at_bos_and_eos(end):
    assert "".join(said([*text("Yes.", end), *text("No.")])) == " Yes."


def test_a_text_ends_after_max_new_tokens_and_half_a_character_is_shown_then():
    assert "".join(said(text("one, two, three"), max_new_tokens=3)) == " one, two"
    assert "".join(said(TOKENIZER.encode("🎵")[:3], prompt="x")).endswith("\ufffd")


def test_a_full_context_is_told_and_a_short_text_is_not(capsys):
    for ids, told in ((text("word " * 40), "(the context of 16 tokens is full)\n"), (text("word"), "")):
        assert sample.write(Scripted(ids, context=16), TOKENIZER, ["Q:"], [[BOS, *TOKENIZER.encode("Q:")]], SampleConfig()) == 0
        out, err = capsys.readouterr()
        assert err == told
        assert out.startswith("Q: word") and out.endswith("word\n")


def test_control_characters_do_not_reach_the_terminal(capsys):
    sample.say("a\x1b[2Jb\tc\nd\x07\x9b")
    assert capsys.readouterr().out == "a[2Jb\tc\nd"


def test_each_sample_has_its_own_seed_and_a_line_between(capsys):
    model = Scripted(text("one"), text("two"), text("three"), text("four"))
    cfg = SampleConfig(num_samples=2, seed=5)
    sample.write(model, TOKENIZER, ["A:", "B:"], [[BOS, *TOKENIZER.encode(t)] for t in ("A:", "B:")], cfg)
    assert capsys.readouterr().out == "A: one\n\n---\n\nA: two\n\n---\n\nB: three\n\n---\n\nB: four\n"
    assert model.seeds == [5, 6, 5, 6]


def test_a_bin_and_a_checkpoint_of_one_model_write_the_same(folder, capsys):
    texts = []
    for name in ("a.pt", "a.bin", "b.pt"):
        assert run(folder, f"--checkpoint={folder / name}", "--question=What is a name?", "--max_new_tokens=30") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("Q: What is a name?\nA:")


def test_the_same_seed_writes_the_same_and_another_does_not(folder, capsys):
    texts = []
    for flags in (["--seed=3"], ["--seed=3"], ["--seed=4"], ["--seed=3", "--dtype=bfloat16"]):
        run(folder, "--start=I am", "--max_new_tokens=20", *flags)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[3].startswith("I am")


# ---- side by side ----

CELLS = ["The sea is a slow breath, and I listen to it all day long.\nThen night.", "A fish."]


def test_a_wide_terminal_shows_two_columns():
    assert side_by_side.beside("Q: What is\nthe sea?", ["out/tuned.pt", "out/base.pt"], CELLS, 69) == "\n".join(
        [
            "Q: What is",
            "the sea?",
            "",
            "out/tuned.pt                      | out/base.pt",
            "--------------------------------- | ---------------------------------",
            "The sea is a slow breath, and I   | A fish.",
            "listen to it all day long.        |",
            "Then night.                       |",
        ]
    )


def test_a_narrow_terminal_shows_one_below_the_other():
    assert side_by_side.beside("Q: What?", ["out/tuned.pt", "out/base.pt"], CELLS, 60) == "\n".join(
        [
            "Q: What?",
            "",
            "[out/tuned.pt]",
            "The sea is a slow breath, and I listen to it all day long.",
            "Then night.",
            "",
            "[out/base.pt]",
            "A fish.",
        ]
    )


def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost():
    cells = ["long" * 30 + " end", "short words " * 20]
    for width in (20, 60, 67, 68, 80, 200):
        shown = side_by_side.beside("Q: " + "why " * 40, ["folder/" * 20, "b.pt"], cells, width)
        assert max(map(len, shown.split("\n"))) <= width
        assert shown.count("short") == 20 and shown.count("why") == 40


@pytest.mark.parametrize(("columns", "below"), [("50", True), ("100", False)])
def test_compare_shows_both_models_beside_each_other(folder, capsys, monkeypatch, columns, below):
    monkeypatch.setenv("COLUMNS", columns)
    flags = ["--question=What is time?", "--question=Who?", "--max_new_tokens=12"]
    assert run(folder, f"--compare={folder / 'b.pt'}", *flags) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.split("\n"))) <= int(columns)
    assert (" | " in shown) != below
    assert shown.index("Q: What is time?") < shown.index("Q: Who?")
    joined = re.sub(r"[\s|]", "", shown)
    assert "a.pt" in joined and "b.pt" in joined


def test_a_model_compared_with_itself_says_the_same_twice(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert run(folder, f"--compare={folder / 'a.bin'}", "--question=Who?", "--num_samples=2", "--max_new_tokens=20") == 0
    first, second = re.split(r"\n\n(?=Q:)", capsys.readouterr().out)
    texts = [re.split(r"\n\n\[[^]]+\]\n", part.strip()) for part in (first, second)]
    assert [len(parts) for parts in texts] == [3, 3]
    assert texts[0][1] == texts[0][2] != texts[1][1] == texts[1][2]
    assert texts[0][0].endswith("(1 of 2)") and texts[1][0].endswith("(2 of 2)")


def test_texts_to_compare_are_generated_many_at_a_time():
    class Counting(Scripted):
        def generate(self, prompts, max_new_tokens, stop, **sampling):
            self.calls = [*getattr(self, "calls", []), (len(prompts), sampling["seed"])]
            return [TOKENIZER.encode(f"number {i}") for i in range(len(prompts))]

    model = Counting()
    texts = sample.complete(model, TOKENIZER, [[BOS, 300]] * 70, SampleConfig(seed=4))
    assert model.calls == [(32, 4), (32, 5), (6, 6)]
    assert len(texts) == 70 and texts[33] == " number 1"


def test_compared_texts_that_fill_the_context_are_told(capsys):
    words = TOKENIZER.encode("word " * 40)
    sample.complete(Scripted(words, text("word")[:-1], context=16), TOKENIZER, [[BOS, 300]] * 2, SampleConfig())
    assert capsys.readouterr().err == "(1 of 2 texts filled the context of 16 tokens)\n"


def test_markdown_shows_a_text_as_it_is():
    pairs = [("Q: 1 < 2?\nA:", [" <script>x</script>\nof | *two*", "plain."]), ("", ["a", "b"])]
    assert side_by_side.markdown(pairs, ["out/my_a.pt", "b.pt"], "top_k 300, seed 3") == "\n".join(
        [
            r"# out/my\_a.pt and b.pt",
            "",
            r"top\_k 300, seed 3",
            "",
            r"## Q: 1 \< 2? A:",
            "",
            r"| out/my\_a.pt | b.pt |",
            "| --- | --- |",
            r"| \<script\>x\</script\><br>of \| \*two\* | plain. |",
            "",
            "## (no prompt)",
            "",
            r"| out/my\_a.pt | b.pt |",
            "| --- | --- |",
            "| a | b |",
            "",
        ]
    )


def test_out_writes_markdown_of_one_model_or_two(folder, capsys, tmp_path):
    out = tmp_path / "answers.md"
    for flags, cells in (([], 1), ([f"--compare={folder / 'b.pt'}"], 2)):
        assert run(folder, "--question=Who?", "--max_new_tokens=9", f"--out={out}", *flags) == 0
        assert f"wrote {out}" in capsys.readouterr().out
        lines = out.read_text().split("\n")
        assert lines[4] == "## Q: Who? A:"
        assert lines[7] == "|" + " --- |" * cells


# ---- chat ----


def talk(monkeypatch, model, *lines: str, **settings) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return sample.chat(model, TOKENIZER, SampleConfig(chat=True, **settings))


def rendered(*turns: tuple[str, str], then: str) -> list[int]:
    """What the model is given after some turns, by the code that prepares its training."""
    past = encoding.encode_turns(Conversation(turns), TOKENIZER)[0].tolist() if turns else [BOS]
    return [*past, *TOKENIZER.encode(conversations.prompt(then))]


def test_a_chat_keeps_the_turns_in_sight_as_they_were_trained(monkeypatch, capsys):
    model = Scripted(text("I am well."), text("Blue.\n", EOS), text("Bye."))
    assert talk(monkeypatch, model, "How are you?", "", "Which colour?", "Good bye") == 0
    assert capsys.readouterr().out == "I am well.\nBlue.\n\nBye.\n"
    first, second = ("How are you?", "I am well."), ("Which colour?", "Blue.")
    assert model.prompts == [rendered(then=first[0]), rendered(first, then=second[0]), rendered(first, second, then="Good bye")]
    assert len(set(model.seeds)) == 3


def test_a_chat_drops_the_oldest_turns_and_leaves_room_for_an_answer(monkeypatch):
    questions = [f"Question number {i}?" for i in range(8)]
    model = Scripted(*[text("An answer of some words.")] * 8, context=96)
    talk(monkeypatch, model, *questions, max_new_tokens=40)
    turns = [(q, "An answer of some words.") for q in questions]
    lengths = [len(p) for p in model.prompts]
    assert max(lengths) <= 96 - 40
    assert model.prompts[1] == rendered(turns[0], then=questions[1])
    kept = [next(n for n in range(i + 1) if model.prompts[i] == rendered(*turns[n:i], then=questions[i])) for i in range(8)]
    assert kept == sorted(kept) and kept[-1] > 3
    longer = [len(rendered(*turns[max(n - 1, 0) : i], then=questions[i])) for i, n in enumerate(kept)]
    assert all(n == 0 or length > 96 - 40 for n, length in zip(kept, longer, strict=True)), "no turn is dropped that would fit"


def test_reset_forgets_and_quit_leaves(monkeypatch, capsys):
    model = Scripted(text("One."), text("Two."), text("Three."))
    talk(monkeypatch, model, "First?", "/reset", "Second?", "/dance", "/quit", "Third?")
    assert model.prompts == [rendered(then="First?"), rendered(then="Second?")]
    assert model.seeds[0] == model.seeds[1]
    out, err = capsys.readouterr()
    assert out == "One.\nTwo.\n"
    assert err == "(/dance is not known here; there are /reset and /quit)\n"


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(monkeypatch, capsys):
    model = Scripted([*TOKENIZER.encode("Half of"), None], [None], text("Whole."))
    assert talk(monkeypatch, model, "One?", "Two?", "Three?") == 0
    assert capsys.readouterr().out == "Half of\n\nWhole.\n"
    assert model.prompts[1:] == [rendered(("One?", "Half of"), then=q) for q in ("Two?", "Three?")], "a turn without an answer is none"


@pytest.mark.parametrize(("on_the_line", "asks"), [([""], 1), (["half a ques", ""], 2)])
def test_ctrl_c_leaves_only_at_an_empty_prompt(monkeypatch, on_the_line, asks):
    calls = []

    def pressed(prompt):
        calls.append(prompt)
        raise KeyboardInterrupt

    lines = iter(on_the_line)
    monkeypatch.setattr("builtins.input", pressed)
    monkeypatch.setattr(sample, "typed", lambda: next(lines))
    assert sample.ask(interactive=True) is None
    assert calls == ["> "] * asks


def test_a_question_too_long_for_the_context_is_told_and_forgotten(monkeypatch, capsys):
    model = Scripted(text("One."), text("Two."), context=24)
    talk(monkeypatch, model, "First?", "word " * 30, "Second?", max_new_tokens=3)
    assert "too many for a context of 24; ask a shorter one" in capsys.readouterr().err
    assert model.prompts == [rendered(then="First?"), rendered(("First?", "One."), then="Second?")]


def test_an_answer_ends_before_a_question_that_the_model_invents(monkeypatch, capsys):
    model = Scripted([*TOKENIZER.encode("Yes.\nQuite.\n Q: And?\nA: Never."), BOS], text("No."))
    talk(monkeypatch, model, "Is it?", "Really?")
    assert capsys.readouterr().out == "Yes.\nQuite.\nNo.\n"
    assert model.prompts[1] == rendered(("Is it?", "Yes.\nQuite."), then="Really?")


@given(st.lists(st.text("aQ: \n", max_size=4), max_size=12))
def test_a_text_is_shown_up_to_the_next_question_however_it_is_cut(parts):
    whole = "".join(parts)
    assert "".join(sample.until_next_question(parts)) == re.split(r"\n[^\S\n]*Q:", whole)[0]


def test_a_full_context_is_told_in_the_chat(monkeypatch, capsys):
    talk(monkeypatch, Scripted(text("word " * 40), context=32), "First?")
    assert capsys.readouterr().err == "(the context of 32 tokens is full)\n"


# ---- the command ----


def command(*flags: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "sample.py", *flags]
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, **options)


def test_the_line_works_as_it_is_written(folder):
    done = command(f"--checkpoint={folder / 'a.pt'}", "--start=Q: What is consciousness?", "--max_new_tokens=200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Q: What is consciousness?\nA:")
    assert len(done.stdout) > 60
    assert done.stderr in ("", f"(the context of {TINY.max_seq_len} tokens is full)\n")


def test_a_chat_through_a_pipe(folder):
    done = command(f"--checkpoint={folder / 'a.bin'}", "--chat", "--max_new_tokens=8", input="Who are you?\n/reset\nWho are you?\n")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.rstrip("\n")
    assert answers and answers == f"{answers[: len(answers) // 2]}\n{answers[: len(answers) // 2]}"
    assert ">" not in done.stdout.split("\n")[0][:2], "a pipe is not asked"


def test_what_can_be_told_without_torch_is_told_before_it_is_imported():
    tell = "import sys, sample\ntry: sample.main(sys.argv[1:])\nexcept (ValueError, SystemExit): print('torch' in sys.modules)"
    for flags in (["--help"], ["--checkpoint=nowhere.pt"], ["--prompts_file=nowhere.txt"], ["--temperature=-1"]):
        done = subprocess.run([sys.executable, "-c", tell, *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.endswith("False\n"), f"{flags} {done.stdout} {done.stderr}"


def test_ctrl_c_ends_with_130(folder, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "write", pressed)
    assert run(folder) == 130


FAULTS = {
    "--checkpoint={folder}/none.pt": "none.pt is missing; give a checkpoint (.pt) or a llama2.c .bin",
    "--checkpoint={folder}": "is missing; give a checkpoint",
    "--compare={folder}/none.bin": "none.bin is missing",
    "--checkpoint={folder}/damaged.pt": "damaged.pt is damaged",
    "--checkpoint={folder}/small.pt": "has 4096 tokens, but {folder}/small.pt was trained with 512",
    "--compare={folder}/small.pt": "has 4096 tokens, but {folder}/small.pt was trained with 512",
    "--tokenizer={folder}/none.model": "none.model is missing",
    "--tokenizer={folder}/a.pt": "a.pt is not a SentencePiece model",
    "--start=" + "word " * 80: "tokens; {folder}/a.pt has a context of 64 and needs one of them to answer. Shorten it.",
    "--start=half \udcff": r"the prompt 'half \udcff' is not UTF-8 text (character 6)",
    "--question= ": "--question is empty",
    "--prompts_file={folder}/empty.txt": "empty.txt is empty; it needs at least one prompt, one a line.",
    "--prompts_file={folder}/latin.txt": "latin.txt is not UTF-8 (byte 3)",
    "--prompts_file={folder}/none.txt": "none.txt is missing",
    "--out={folder}/none/a.md": "none is no folder",
    "--out={folder}/a.txt": "a.txt should end in .md",
    "--num_samples=0": "num_samples is 0; it must be at least 1",
    "--max_new_tokens=0": "max_new_tokens is 0",
    "--top_k=-1": "top_k is -1",
    "--seed=-1": "seed is -1",
    "--temperature=nan": "temperature is nan",
    "--top_p=0": "top_p is 0.0",
    "--device=nothing": "device 'nothing' cannot be used here",
    "--dtype=int8": "'int8' is not one of float32, bfloat16",
    "--qestion=Who?": "did you mean --question?",
}


@pytest.mark.parametrize("flag", FAULTS)
def test_bad_input_gets_one_sentence_and_exit_2_before_work_starts(folder, capsys, flag):
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    given = [f"--checkpoint={folder / 'a.pt'}", f"--tokenizer={ROOT / 'data/tok4096.model'}", flag.format(folder=folder)]
    with pytest.raises(SystemExit) as exited:
        config.run_main(sample.main, given)
    out, err = capsys.readouterr()
    assert exited.value.code == 2
    assert FAULTS[flag].format(folder=folder) in err
    assert err.count("\n") == 1 and out == ""


def test_a_prompt_must_fit_both_models_and_is_cut_short_in_the_sentence(folder):
    encoded = [[BOS] * 64]
    models = [build(), build(ModelArgs(dim=32, n_layers=1, n_heads=2, max_seq_len=65))]
    sample.check_room(["x" * 100], encoded, "b.pt", models[1])
    with pytest.raises(ValueError, match=r"^the prompt 'x{40}\.\.\.' has 64 tokens; a.pt has a context of 64"):
        sample.check_room(["x" * 100], encoded, "a.pt", models[0])


@pytest.mark.parametrize("other", ["--compare=b.pt", "--start=a", "--question=b", "--prompts_file=c.txt", "--out=d.md"])
def test_a_chat_takes_its_questions_from_the_terminal_alone(other):
    with pytest.raises(config.UsageError, match=f"{other.split('=')[0]} does not go with --chat"):
        config.parse(SampleConfig, ["--chat", other], None)


def test_an_input_is_not_overwritten(tmp_path):
    (tmp_path / "prompts.md").write_text("one\n")
    with pytest.raises(config.UsageError, match="would overwrite --prompts_file"):
        config.parse(SampleConfig, [f"--prompts_file={tmp_path}/prompts.md", f"--out={tmp_path}/x/../prompts.md"], None)
