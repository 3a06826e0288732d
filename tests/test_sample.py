"""Going on from prompts, comparing two models, and what the command takes and refuses."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT, TINY, Scripted, build, train_tokenizer

import sample
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.formats import checkpoint, llama2c
from arianna.formats.write import write_model
from arianna.system import config
from arianna.system.files import sha256
from model import ModelArgs
from sample import SampleConfig
from tokenizer import BOS, Tokenizer

TOKENIZER = Tokenizer(ROOT / "data/tok4096.model")
pytestmark = pytest.mark.usefixtures("scripted_generation")


def text(words: str, end: int = BOS) -> list[int]:
    """The tokens of an answer as a model says it behind "A:"."""
    return [*TOKENIZER.encode(words), end]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny models, one of them also as .bin, and one of another vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("a", 7), ("b", 8)):
        checkpoint.save(folder / f"{name}.pt", checkpoint.pack(build(seed=seed)))
    (folder / "a.bin").write_bytes(llama2c.to_bytes(build(seed=7)))
    checkpoint.save(
        folder / "small.pt", checkpoint.pack(build(ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=512)))
    )
    (folder / "damaged.pt").write_bytes((folder / "a.pt").read_bytes()[:-5000])
    return folder


def line(folder, *flags: str) -> list[str]:
    """A command line for model a and the shipped tokenizer, where no others are given."""
    given = {flag.split("=")[0] for flag in flags}
    usual = [f"--checkpoint={folder / 'a.pt'}", f"--tokenizer={ROOT / 'data/tok4096.model'}"]
    return [*(flag for flag in usual if flag.split("=")[0] not in given), *flags]


def run(folder, *flags: str) -> int:
    return sample.main(line(folder, *flags))


# ---- prompts ----


def test_backslash_n_in_start_is_a_new_line():
    assert sample.prompts(SampleConfig(start=(r"Q: What is resonance?\nA:", "real\nline"))) == [
        "Q: What is resonance?\nA:",
        "real\nline",
    ]


def test_a_question_is_rendered_as_the_model_was_trained():
    (rendered,) = sample.prompts(SampleConfig(question=(" What is time? ",)))
    assert rendered == "Q: What is time?\nA:"
    trained = encoding.encode_turns(Conversation((("What is time?", "A slow river."),)), TOKENIZER)[
        0
    ].tolist()
    ids = [BOS, *TOKENIZER.encode(rendered)]
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


def test_every_flag_says_what_it_is():
    comments = config.field_comments(SampleConfig)
    assert [field.name for field in dataclasses.fields(SampleConfig) if not comments.get(field.name)] == []


def test_without_a_prompt_the_model_begins_by_itself(folder, capsys):
    assert run(folder, "--max_new_tokens=5") == 0
    assert capsys.readouterr().out.strip()


# ---- texts as they come ----


def test_a_full_context_is_told_and_a_short_text_is_not(capsys):
    for ids, told in ((text("word " * 40), "(the context of 16 tokens is full)\n"), (text("word"), "")):
        assert (
            sample.write(
                Scripted(ids, context=16), TOKENIZER, ["Q:"], [[BOS, *TOKENIZER.encode("Q:")]], SampleConfig()
            )
            == 0
        )
        out, err = capsys.readouterr()
        assert err == told
        assert out.startswith("Q: word") and out.endswith("word\n")


def test_each_sample_has_its_own_seed_and_a_line_between(capsys):
    model = Scripted(text("one"), text("two"), text("three"), text("four"))
    cfg = SampleConfig(num_samples=2, seed=5)
    sample.write(model, TOKENIZER, ["A:", "B:"], [[BOS, *TOKENIZER.encode(t)] for t in ("A:", "B:")], cfg)
    assert capsys.readouterr().out == "A: one\n\n---\n\nA: two\n\n---\n\nB: three\n\n---\n\nB: four\n"
    assert model.seeds == [5, 6, 5, 6]


def test_a_bin_and_a_checkpoint_of_one_model_write_the_same(folder, capsys):
    texts = []
    for name in ("a.pt", "a.bin", "b.pt"):
        assert (
            run(folder, f"--checkpoint={folder / name}", "--question=What is a name?", "--max_new_tokens=30")
            == 0
        )
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
    assert (
        run(
            folder,
            f"--compare={folder / 'a.bin'}",
            "--question=Who?",
            "--num_samples=2",
            "--max_new_tokens=20",
        )
        == 0
    )
    first, second = re.split(r"\n\n(?=Q:)", capsys.readouterr().out)
    texts = [re.split(r"\n\n\[[^]]+\]\n", part.strip()) for part in (first, second)]
    assert [len(parts) for parts in texts] == [3, 3]
    assert texts[0][1] == texts[0][2] != texts[1][1] == texts[1][2]
    assert texts[0][0].endswith("(1 of 2)") and texts[1][0].endswith("(2 of 2)")


def test_markdown_shows_a_text_as_it_is():
    pairs = [("Q: 1 < 2?\nA:", [" <script>x</script>\nof | *two*", "plain."]), ("", ["a", "b"])]
    assert sample.markdown(pairs, ["out/my_a.pt", "b.pt"], "top_k 300, seed 3") == "\n".join(
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
    for flags, cells in (([], 1), (["--force", f"--compare={folder / 'b.pt'}"], 2)):
        assert run(folder, "--question=Who?", "--max_new_tokens=9", f"--out={out}", *flags) == 0
        assert f"wrote {out}" in capsys.readouterr().out
        lines = out.read_text().split("\n")
        assert lines[4] == "## Q: Who? A:"
        assert lines[7] == "|" + " --- |" * cells


# ---- the command ----


def command(*flags: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "sample.py", *flags]
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, **options
    )


def test_the_line_works_as_it_is_written(folder):
    done = command(
        f"--checkpoint={folder / 'a.pt'}", "--start=Q: What is consciousness?", "--max_new_tokens=200"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Q: What is consciousness?\nA:")
    assert len(done.stdout) > 60
    assert done.stderr in ("", f"(the context of {TINY.max_seq_len} tokens is full)\n")


def test_a_chat_through_a_pipe(folder):
    done = command(
        f"--checkpoint={folder / 'a.bin'}",
        "--chat",
        "--max_new_tokens=8",
        input="Who are you?\n/reset\nWho are you?\n",
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.rstrip("\n")
    assert answers and answers == f"{answers[: len(answers) // 2]}\n{answers[: len(answers) // 2]}"
    assert ">" not in done.stdout.split("\n")[0][:2], "a pipe is not asked"


def test_what_can_be_told_without_torch_is_told_before_it_is_imported():
    tell = (
        "import sys, sample\ntry: sample.main(sys.argv[1:])\n"
        "except (ValueError, SystemExit): print('torch' in sys.modules)"
    )
    for flags in (
        ["--help"],
        ["--checkpoint=nowhere.pt"],
        ["--prompts_file=nowhere.txt"],
        ["--temperature=-1"],
    ):
        done = subprocess.run([sys.executable, "-c", tell, *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.endswith("False\n"), f"{flags} {done.stdout} {done.stderr}"


def test_ctrl_c_ends_with_130(folder, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "write", pressed)
    assert run(folder) == 130


FAULTS = {
    "--checkpoint={folder}/none.pt": "none.pt is missing; give a checkpoint (.pt), a llama2.c .bin",
    "--checkpoint={folder}": "config.json is missing; a Hugging Face model's folder has one",
    "--system=Be kind.": "--system stands ahead of a --question or of a --chat",
    "--force": "--force lets --out replace a file; give --out, or leave --force out",
    "--checkpoint={folder}/none": "none is missing; give a checkpoint (.pt), a llama2.c .bin, a .gguf "
    "or a Hugging Face folder",
    "--compare={folder}/none.bin": "none.bin is missing",
    "--checkpoint={folder}/damaged.pt": "damaged.pt is damaged",
    "--checkpoint={folder}/small.pt": "has 4096 tokens, but {folder}/small.pt was trained with 512",
    "--compare={folder}/small.pt": "has 4096 tokens, but {folder}/small.pt was trained with 512",
    "--tokenizer={folder}/none.model": "none.model is missing",
    "--tokenizer={folder}/a.pt": "a.pt is not a SentencePiece model",
    "--start="
    + "word " * 80: "tokens; {folder}/a.pt has a context of 64 and needs one of them to answer. Shorten it.",
    "--start=half \udcff": r"the prompt 'half \udcff' is not UTF-8 text (character 6)",
    "--question= ": "--question is empty",
    "--prompts_file={folder}/empty.txt": "empty.txt is empty; it needs at least one prompt, one a line.",
    "--prompts_file={folder}/latin.txt": "latin.txt is not UTF-8 (byte 3)",
    "--prompts_file={folder}/none.txt": "none.txt is missing",
    "--out={folder}/none/a.md": "none is no folder",
    "--out={folder}/a.txt": "a.txt should end in .md",
    "--num_samples=0": "num_samples is 0; it must be from 1 to",
    "--max_new_tokens=0": "max_new_tokens is 0",
    "--top_k=-1": "top_k is -1",
    "--seed=-1": "seed is -1",
    "--temperature=nan": "temperature is nan",
    "--top_p=0": "top_p is 0.0",
    "--best_of=0": "best_of is 0; it must be from 1 to 256",
    "--best_of=1000000": "best_of is 1000000; it must be from 1 to 256",
    "--device=nothing": "device 'nothing' cannot be used here",
    "--dtype=int8": "'int8' is not one of float32, bfloat16",
    "--qestion=Who?": "did you mean --question?",
}


@pytest.mark.parametrize("flag", FAULTS)
def test_bad_input_gets_one_sentence_and_exit_2_before_work_starts(folder, capsys, flag):
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SystemExit) as exited:
        config.run_main(sample.main, line(folder, flag.format(folder=folder)))
    out, err = capsys.readouterr()
    assert exited.value.code == 2
    assert FAULTS[flag].format(folder=folder) in err
    assert err.count("\n") == 1 and out == ""


def test_a_prompt_must_fit_both_models_and_is_cut_short_in_the_sentence(folder):
    encoded = [[BOS] * 64]
    models = [build(), build(ModelArgs(dim=32, n_layers=1, n_heads=2, max_seq_len=65))]
    sample.check_room(["x" * 100], encoded, "b.pt", models[1])
    with pytest.raises(
        ValueError, match=r"^the prompt 'x{40}\.\.\.' has 64 tokens; a.pt has a context of 64"
    ):
        sample.check_room(["x" * 100], encoded, "a.pt", models[0])


@pytest.mark.parametrize(
    "other", ["--compare=b.pt", "--start=a", "--question=b", "--prompts_file=c.txt", "--out=d.md"]
)
def test_a_chat_takes_its_questions_from_the_terminal_alone(other):
    with pytest.raises(config.UsageError, match=f"{other.split('=')[0]} does not go with --chat"):
        config.parse(SampleConfig, ["--chat", other], None)


@pytest.mark.parametrize("talk", ["chat", "web", "blind"])
@pytest.mark.parametrize(
    "other", ["--start=a", "--question=b", "--prompts_file=c.txt", "--out=d.md", "--num_samples=2"]
)
def test_no_flag_is_taken_that_would_not_be_used(talk, other):
    with pytest.raises(
        config.UsageError, match=f"{other.split('=')[0]} does not go with --{talk}; leave one of them out"
    ):
        config.parse(SampleConfig, [f"--{talk}", other], None)


def test_one_way_to_talk_at_a_time():
    with pytest.raises(config.UsageError, match="--blind does not go with --web"):
        config.parse(SampleConfig, ["--blind", "--web"], None)


# ---- what is not ours is not written over ----


@pytest.mark.parametrize("flag", ["--prompts_file", "--checkpoint", "--compare", "--tokenizer"])
def test_an_input_is_not_overwritten_even_with_force(folder, tmp_path, flag):
    source = tmp_path / "in.md"
    source.write_bytes((folder / "a.pt").read_bytes())
    given = [f"--out={tmp_path}/x/../in.md", "--force", f"{flag}={source}"]
    (tmp_path / "x").mkdir()
    with pytest.raises(config.UsageError, match=r"in\.md would be written, but it is an input"):
        run(folder, *given)
    assert source.read_bytes() == (folder / "a.pt").read_bytes()


def test_a_file_that_is_there_is_replaced_with_force_alone(folder, tmp_path):
    (tmp_path / "mine.md").write_text("mine")
    flags = ["--question=Who?", "--max_new_tokens=3", f"--out={tmp_path}/mine.md"]
    with pytest.raises(config.UsageError, match=r"mine\.md exists and was not made by this run"):
        run(folder, *flags)
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert run(folder, *flags, "--force") == 0
    assert (tmp_path / "mine.md").read_text().startswith("# ")


# ---- other models, their tokenizers ----


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_it_takes_what_a_base_may_be(folder, tmp_path, capsys, format):
    if format == "gguf":
        pytest.importorskip("gguf")
    path = tmp_path / ("a.gguf" if format == "gguf" else "a")
    write_model(build(seed=7), path, format, tokenizer=TOKENIZER)
    texts = []
    for model in (folder / "a.pt", path):
        assert sample.main([f"--checkpoint={model}", "Who?", "--max_new_tokens=20"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@pytest.fixture
def remembering(tmp_path):
    """A model that remembers a tokenizer of its own, and another tokenizer of the same size."""
    own, other = tmp_path / "own.model", tmp_path / "other.model"
    size = train_tokenizer(own, text="whales and waves and wells " * 9).vocab_size
    other_size = train_tokenizer(other, text="zebras zoom in zigzags " * 9, vocab_size=size).vocab_size
    assert size == other_size and own.read_bytes() != other.read_bytes()
    model = build(ModelArgs(dim=32, n_layers=1, n_heads=2, vocab_size=size, max_seq_len=64))
    noted = {"sha256": sha256(own), "path": str(own)}
    checkpoint.save(tmp_path / "model.pt", checkpoint.pack(model, run={"tokenizer": noted}))
    return tmp_path


def test_a_model_finds_the_tokenizer_that_it_was_trained_with(remembering, capsys):
    texts = []
    for flags in ([], [f"--tokenizer={remembering}/own.model"]):
        assert (
            sample.main([f"--checkpoint={remembering}/model.pt", *flags, "Who?", "--max_new_tokens=9"]) == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_another_tokenizer_of_the_same_size_is_refused(remembering):
    with pytest.raises(config.UsageError, match=r"other\.model"):
        sample.main(
            [f"--checkpoint={remembering}/model.pt", f"--tokenizer={remembering}/other.model", "Who?"]
        )


def test_a_second_model_with_another_tokenizer_is_refused(remembering):
    model = build(
        ModelArgs(
            dim=32,
            n_layers=1,
            n_heads=2,
            vocab_size=Tokenizer(remembering / "own.model").vocab_size,
            max_seq_len=64,
        )
    )
    checkpoint.save(remembering / "plain.pt", checkpoint.pack(model))
    given = [
        f"--checkpoint={remembering}/plain.pt",
        f"--compare={remembering}/model.pt",
        f"--tokenizer={remembering}/other.model",
    ]
    with pytest.raises(config.UsageError, match=r"other\.model"):
        sample.main([*given, "Who?"])


# ---- questions ----


@pytest.mark.parametrize(
    "given", [["What?"], ["--seed=3", "What?"], ["--seed", "3", "What?"], ["What?", "--chat"]]
)
def test_a_bare_word_is_a_question_wherever_it_stands(given):
    words = sample.bare_words_are_questions(given)
    assert "--question=What?" in words and len(words) == len(given)
    assert [word for word in words if word != "--question=What?"] == [
        word for word in given if word != "What?"
    ]


@pytest.mark.parametrize("flag", ["--chat", "--web", "--blind", "--force"])
def test_a_flag_that_stands_alone_takes_no_question(flag):
    assert sample.bare_words_are_questions([flag, "What?"]) == [flag, "--question=What?"]
    assert sample.bare_words_are_questions([flag, "no", "What?"]) == [flag, "no", "--question=What?"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["What", "is", "time"], ["What is time"]),
        (["What", "is", "time?", "Who", "are", "you"], ["What is time?", "Who are you"]),
        (["What is time", "Who are you"], ["What is time", "Who are you"]),
        (["Why?", "Who?"], ["Why?", "Who?"]),
    ],
)
def test_words_without_quotes_are_one_question(given, asked):
    expected = [f"--question={question}" for question in asked]
    assert sample.bare_words_are_questions([*given, "--seed", "3"]) == [*expected, "--seed", "3"]


def test_the_system_text_stands_ahead_of_each_question_as_in_training():
    cfg = SampleConfig(question=("Who?", "Why?"), system=" Be\nkind. ", start=("So",))
    assert sample.prompts(cfg) == ["So", "Be\nkind.\nQ: Who?\nA:", "Be\nkind.\nQ: Why?\nA:"]
    trained = encoding.encode_turns(Conversation((("Who?", "Me."),), "Be\nkind."), TOKENIZER)[0].tolist()
    ids = [BOS, *TOKENIZER.encode(sample.prompts(cfg)[1])]
    assert trained[: len(ids)] == ids


def test_typography_of_a_question_is_turned_as_in_training(remembering, capsys):
    assert sample.main([f"--checkpoint={remembering}/model.pt", "It’s “you”?", "--max_new_tokens=3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith('Q: It\'s "you"?\nA:')
    assert err.startswith("(typographic quotes, dashes and ellipses become ASCII, as in training)\n")


def test_the_page_gets_the_models_and_their_names(folder, monkeypatch):
    from arianna import web

    talks = []
    monkeypatch.setattr(
        web, "talk", lambda models, names, tokenizer: talks.append((len(models), list(names))) or 0
    )
    assert run(folder, "--web", f"--compare={folder / 'b.pt'}") == 0
    assert talks == [(2, ["a", "b"])]
