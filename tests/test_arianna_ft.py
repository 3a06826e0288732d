"""The whole command as a person starts it: in its own process, on files of a folder."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, build, command, furnish, tensorboard_of, version_1

import arianna_ft
from arianna import formats
from arianna.corpus import parallel, sources
from arianna.formats import checkpoint
from arianna.formats.write import write_model
from arianna.reporting import scored_run
from arianna.system import config
from arianna.system.files import sha256
from arianna.training import job
from arianna.training.settings import PRESETS


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def run(place: Path, *flags: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*flags), cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files but locks and logs."""
    skipped = (".lock", ".pid", ".log", ".jsonl")
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(skipped))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, str]:
    """A folder in which the command has run to its end, and what it printed."""
    folder = furnish(tmp_path_factory.mktemp("done"))
    result = run(folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_the_command_leaves_all_that_it_promises(done):
    folder, said = done
    assert {p.name for p in (folder / "out/ft").glob("ckpt*.pt")} == {
        "ckpt.pt",
        "ckpt_prev.pt",
        *(f"ckpt_{i:06d}.pt" for i in (0, 3, 6)),
    }
    assert (
        (folder / "data/ft_corpus.txt")
        .read_text()
        .startswith("Q: What stands at number 0?\nA: At number 0 stands")
    )
    assert "30 conversations" in said and "8 of them held out" in said
    assert "step 6: train loss" in said and "held-out answers went from" in said
    assert "-z" in said and "-n 0" in said and "sample.py --checkpoint=" in said


def test_the_export_is_the_chosen_checkpoint(done):
    folder, said = done
    a, b = formats.open_model(folder / "out/ckpt_ft.pt"), formats.open_model(folder / "out/arianna_v1_ft.bin")
    tokens = torch.arange(3, 60)[None]
    assert torch.equal(a(tokens), b(tokens))
    losses = {}
    for line in (folder / "out/ft/log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "val_loss" in entry and entry["step"] > 0:
            losses[entry["step"]] = entry["val_loss"]
    best = min(losses, key=losses.get)
    chosen = formats.open_model(folder / f"out/ft/ckpt_{best:06d}.pt")
    assert torch.equal(a(tokens), chosen(tokens)) and f"iteration {best}" in said


def test_again_it_says_done_and_changes_nothing(done):
    folder, _ = done
    before = contents(folder)
    result = run(folder)
    assert result.returncode == 0 and "is trained: 6 iterations" in result.stdout
    assert contents(folder) == before


def test_its_settings_file_repeats_a_run(done, place):
    folder, _ = done
    kept = (folder / "out/ft/config.toml").read_text()
    assert (
        "max_iters = 6  # optimizer steps" in kept
        and 'conversations = "talk.jsonl"' in kept
        and 'out_dir = "out"' in kept
    )
    assert not {"fresh", "dry_run", "data_dir"} & tomllib.loads(kept).keys()
    (place / "mine.toml").write_text(kept)
    again = [sys.executable, str(ROOT / "arianna_ft.py"), "--config=mine.toml"]
    result = subprocess.run(
        again, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    with_times = {f"ft/{name}" for name in ("ckpt.pt", "ckpt_prev.pt", "job.json")}
    expected, found = (
        {(n, h) for n, h in contents(at / "out").items() if n not in with_times} for at in (folder, place)
    )
    assert found == expected


def test_a_deleted_result_is_made_again(done):
    folder, _ = done
    before = contents(folder)
    (folder / "out/arianna_v1_ft.bin").unlink()
    (folder / "out/ckpt_ft.pt").unlink()
    assert run(folder).returncode == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--learning_rate=1e-3", "learning_rate is 0.001, was 1e-05"),
        ("--preset=best", "replay is 0.5, was 0.0"),
        ("--base=out/ckpt_ft.pt", "it is an input"),
    ],
)
def test_other_settings_and_an_output_over_an_input_are_refused_and_nothing_is_changed(done, flag, sentence):
    folder, _ = done
    before = contents(folder)
    result = run(folder, flag)
    assert result.returncode == 2 and sentence in result.stderr
    assert contents(folder) == before


def test_fresh_keeps_the_old_run(place):
    run(place, "--max_iters=3")
    result = run(place, "--max_iters=4", "--fresh")
    assert result.returncode == 0, result.stderr
    assert checkpoint.load(place / "out/ft-1/ckpt.pt")["iter_num"] == 3
    assert checkpoint.load(place / "out/ft/ckpt.pt")["iter_num"] == 4


def test_a_dry_run_writes_nothing(place):
    before = contents(place)
    result = run(place, "--dry_run")
    assert result.returncode == 0 and "minutes" in result.stdout and "held-out answers" in result.stdout
    assert ": guessing" in result.stdout  # the tiny base is untrained
    assert contents(place) == before and not (place / "out").exists()


def test_the_aliases_reach_the_trainer(place):
    assert run(place, "--iterations=2", "--lr=1e-4", "--eval-interval", "2").returncode == 0
    cfg = checkpoint.load(place / "out/ft/ckpt.pt")["run"]["config"]
    assert (cfg["max_iters"], cfg["learning_rate"], cfg["eval_interval"]) == (2, 1e-4, 2)


def test_the_job_asks_for_the_settings_that_were_given(place):
    pipeline = job.PipelineConfig(base=str(place / "base.pt"))
    cfg = job.trainer_settings(pipeline, {})
    assert (cfg.init_from, cfg.learning_rate, cfg.max_iters) == ("resume", 1e-5, 1000)


def test_a_preset_takes_the_place_of_what_is_asked_and_flags_win_over_it(place):
    pipeline = job.PipelineConfig(base=str(place / "base.pt"), preset="best")
    cfg = job.trainer_settings(pipeline, {"max_iters": 9})
    assert {name: getattr(cfg, name) for name in PRESETS["best"]} == PRESETS["best"] | {"max_iters": 9}
    assert run(place, "--preset=best").returncode == 0
    state = checkpoint.load(place / "out/ft/ckpt.pt")
    assert (state["run"]["config"]["replay"], state["iter_num"]) == (0.5, 6)


def test_what_the_base_says_is_replayed_where_that_is_asked_for(done, place):
    assert run(place, "--replay=0.5").returncode == 0
    assert (place / "out/ft/base_text/train_samples.bin").exists() and not (
        done[0] / "out/ft/base_text/train_samples.bin"
    ).exists()
    weights = [
        checkpoint.load(folder / "out/ckpt_ft.pt")["model"]["norm.weight"] for folder in (place, done[0])
    ]
    assert not torch.equal(*weights)


def test_a_longer_context_is_trained_and_exported(place):
    assert run(place, "--max_seq_len=96", "--max_iters=2", "--eval_interval=2").returncode == 0
    assert formats.open_model(place / "out/arianna_v1_ft.bin").args.max_seq_len == 96


def test_a_killed_command_ends_with_the_same_files(done, place):
    folder, _ = done
    process = subprocess.Popen(
        command("--save_minutes=0.0001"), cwd=place, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("step 3:"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    result = run(place)
    assert result.returncode == 0, result.stderr
    expected, found = contents(folder), contents(place)
    for name in ("out/ckpt_ft.pt", "out/arianna_v1_ft.bin", "out/ft/ckpt_000006.pt"):
        assert found[name] == expected[name]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(done, place, number, code):
    folder, _ = done
    process = subprocess.Popen(
        command(), cwd=place, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("step 0:"):
            process.send_signal(number)
    process.wait(60)
    process.stdout.close()
    if process.returncode != 0:  # else it was done before the signal came
        assert process.returncode == code and "the same command goes on" in said
    assert run(place).returncode == 0
    assert contents(place)["out/ckpt_ft.pt"] == contents(folder)["out/ckpt_ft.pt"]


@pytest.mark.parametrize("name", ["version 0.bin", "version 1.bin", "version 2.bin", "folder"])
def test_a_base_of_another_format_goes_through_the_whole_job(place, tokenizer, name):
    """llama2.c's files and a folder of Hugging Face's, by themselves."""
    model, base = build(TINY), place / name
    if name == "version 1.bin":
        base.write_bytes(version_1(model))
    else:
        format = {"version 0.bin": "llama2c", "version 2.bin": "llama2c-int8", "folder": "hf"}[name]
        write_model(model, base, format, tokenizer=tokenizer)
    before = sha256(base)
    result = run(
        place, f"--base={name}", "--max_iters=2", "--eval_interval=2", f"--report={name == 'folder'}"
    )
    assert result.returncode == 0, result.stderr
    began, result_of = (
        formats.open_model(place / "out/ft/ckpt_000000.pt"),
        formats.open_model(place / "out/ckpt_ft.pt"),
    )
    expected = formats.open_model(base).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in began.state_dict().items())
    assert not torch.equal(result_of.layers[0].attention.wq.weight, expected["layers.0.attention.wq.weight"])
    assert (place / "out/ft/report.html").exists() == (name == "folder") and sha256(base) == before
    if name == "folder":
        assert (
            "is trained: 2 iterations"
            in run(place, f"--base={name}", "--max_iters=2", "--eval_interval=2", "--report=True").stdout
        )


def test_a_base_that_carries_another_tokenizer_is_refused(place, tokenizer, monkeypatch):
    import arianna_ft

    write_model(build(TINY), place / "folder", "hf", tokenizer=tokenizer)
    rules = json.loads((place / "folder/tokenizer.json").read_text())
    rules["model"]["vocab"].pop("\u2581the")
    (place / "folder/tokenizer.json").write_text(json.dumps(rules))
    monkeypatch.chdir(place)
    flags = ["--conversations=talk.jsonl", "--base=folder", f"--tokenizer={tokenizer.path}"]
    with pytest.raises(
        config.UsageError, match="tok4096.model does not belong to folder: 1 of its 4096 tokens"
    ):
        arianna_ft.main(flags)
    with pytest.raises(
        config.UsageError,
        match="folder/ckpt_ft.pt would be written, but it lies in folder, an input of this run",
    ):
        arianna_ft.main([*flags, "--out_dir=folder"])
    assert not (place / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_verdict_is_shown_in_tensorboard(place):
    pytest.importorskip("tensorboard")
    assert run(place, "--tensorboard", "--max_iters=2", "--eval_interval=2").returncode == 0
    curves, texts = tensorboard_of(place / "out/ft")
    assert [step for step, _ in curves["val_loss"]] == [0, 2] and "held-out answers went from" in texts[
        "verdict/text_summary"
    ][0][1]
    assert "samples/Who are you?/text_summary" in texts


def test_a_file_in_many_parts_gives_what_one_part_does_and_goes_on_alike(done, place, monkeypatch, capsys):
    monkeypatch.setattr(sources, "PART", 1000)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    monkeypatch.chdir(place)
    flags = command()[2:]
    assert arianna_ft.main([*flags, "--dry_run"]) == 0 and not (place / "out").exists()
    assert arianna_ft.main(flags) == 0
    assert "30 conversations" in capsys.readouterr().out and (place / "data/ft_corpus.txt").exists()
    assert len(list((place / "out/ft/data").glob("train_*.bin"))) > 2
    assert (place / "out/arianna_v1_ft.bin").read_bytes() == (done[0] / "out/arianna_v1_ft.bin").read_bytes()
    assert arianna_ft.main(flags) == 0
    assert "is trained: 6 iterations" in capsys.readouterr().out
    inputs = scored_run.scoring_inputs(scored_run.read_run(place / "out/ft"), formats.open_model("base.pt"))
    assert inputs[1] == {"train": 22, "held_out": 8, "rows": inputs[1]["rows"]}
    (place / "talk.jsonl").write_text((place / "talk.jsonl").read_text().replace("windows", "doors"))
    with pytest.raises(config.UsageError, match="other conversations.*--fresh"):
        arianna_ft.main(flags)


def test_inputs_are_never_written(done):
    folder, _ = done
    fresh = {p.name: p.stat().st_mtime_ns for p in (folder / "talk.jsonl", folder / "base.pt")}
    run(folder, "--dry_run")
    assert fresh == {p.name: p.stat().st_mtime_ns for p in (folder / "talk.jsonl", folder / "base.pt")}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--conversations=none.jsonl"], "none.jsonl"),
        (["--base=none.pt"], "none.pt is missing"),
        (["--base=talk.jsonl"], "talk.jsonl holds JSON and no model"),
        (["--tokenizer=talk.jsonl"], "talk.jsonl is not a SentencePiece model"),
        (["--max_iters=0"], "max_iters is 0"),
        (["--warmup_iters=6"], "warmup_iters is 6"),
        (["--convesations=talk.jsonl"], "did you mean --conversations"),
        (["--leraning_rate=1"], "did you mean --learning_rate"),
        (["--config=none.toml"], "none.toml cannot be read"),
        (["--base=out/none.pt"], "is missing"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(place, flags, sentence):
    before = contents(place)
    result = run(place, *flags)
    assert result.returncode == 2
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert contents(place) == before and not (place / "out").exists()


def test_faulty_conversations_are_told_without_torch(place):
    (place / "talk.jsonl").write_text('[{"role": "user", "content": "Hello"}]\n' * 3)
    environment = os.environ | {"ARIANNA_ENVIRONMENT": ""}
    started = [sys.executable, "-X", "importtime", *command()[1:]]
    result = subprocess.run(started, cwd=place, capture_output=True, text=True, env=environment)
    assert result.returncode == 2 and "talk.jsonl: none of its 3 records can be read" in result.stderr
    assert " torch" not in result.stderr and "numpy" not in result.stderr


def test_help_does_not_import_torch():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "arianna_ft.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert (
        result.returncode == 0 and "--conversations" in result.stdout and "--learning_rate" in result.stdout
    )
    assert (
        " torch" not in result.stderr
        and "numpy" not in result.stderr
        and "sentencepiece" not in result.stderr
    )


def test_the_shipped_base_takes_a_few_iterations(tmp_path):
    """The real model and Arianna's own conversations."""
    flags = [f"--out_dir={tmp_path / 'out'}", "--max_iters=2", "--eval_interval=2", "--dry_run"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "arianna_ft.py"), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "171 conversations" in result.stdout and "7.16 million parameters" in result.stdout


@pytest.mark.slow
def test_the_default_job_makes_the_shipped_base_better(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "arianna_ft.py"), f"--out_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "Better: held-out answers went from" in result.stdout


@pytest.mark.parametrize(
    "name", ["out/ckpt_ft.pt", "out/arianna_v1_ft.bin", "data/ft_corpus.txt", "out/ft/ckpt.pt"]
)
def test_what_no_run_made_is_not_written_over_without_force(place, name, monkeypatch):
    monkeypatch.chdir(place)
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("mine")
    before = contents(place)
    with pytest.raises(
        config.UsageError, match="exists and was not made by this run; give another name, or --force"
    ):
        arianna_ft.main(command()[2:])
    assert contents(place) == before
    job.check_files(job.PipelineConfig(conversations="talk.jsonl", base="base.pt", force=True))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["log.jsonl"], "log.jsonl is missing; it holds the losses of the run in out/ft"),
        (["ckpt.pt", "ckpt_prev.pt"], "goes on from them, and 2 of its evaluations have left weights there"),
        (["best"], "is missing; it holds the weights at iteration .*, of which the result is made"),
    ],
)
def test_what_is_missing_of_a_run_is_told_by_what_it_was_for(done, tmp_path, monkeypatch, names, told):
    shutil.copytree(done[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    best = json.loads(Path("out/ft/choice.json").read_text())["choice"]["best"]["step"]
    for name in names:
        Path(f"out/ft/{name}" if name != "best" else f"out/ft/ckpt_{best:06d}.pt").unlink()
    before = contents(tmp_path)
    with pytest.raises(config.UsageError, match=told) as error:
        arianna_ft.main(command()[2:])
    assert "Put " in str(error.value) and "--fresh" in str(error.value)
    assert contents(tmp_path) == before


def test_with_another_folder_everything_lies_under_it(place):
    before = contents(place)
    result = run(place, "--out_dir=my runs/one", "--max_iters=2", "--eval_interval=2")
    assert result.returncode == 0, result.stderr
    there = contents(place)
    assert {name: there[name] for name in before} == before
    assert all(name.startswith("my runs/one/") for name in there.keys() - before.keys())
    assert (place / "my runs/one/ft_corpus.txt").is_file()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--data_dir=x"],
            "--data_dir is not a flag of this command: it makes token shards of --conversations",
        ),
        (["--init_from=scratch"], "it always starts from --base"),
        (["--base_text_dir=x"], "--base_text=FILE_OR_FOLDER"),
        (["--dim=64"], "a fine-tune keeps the shape"),
        (["--data=talk.jsonl"], "give your conversations with --conversations=FILE"),
        (["mine.jsonl"], "did you mean --conversations=mine.jsonl"),
        (["--dry_run", "mine.jsonl"], "did you mean --conversations=mine.jsonl"),
        (["--conversations=a", "b"], "b has no flag before it; --conversations is given already"),
        (["\u2014dry_run"], "a flag begins with two hyphens"),
        (["--bf16"], "--dtype=float32 or bfloat16"),
        (["--conversations=a", "--conversations=b"], "--conversations is given twice"),
        (["--lr=1", "--learning_rate=1"], "--learning_rate is given twice"),
        (["--out_dir="], "--out_dir/--out-dir: it is empty"),
        (["--seed=-1"], "seed is -1"),
        (["--workers=2"], "belong to --hours"),
        (["--preset=asked"], "'asked' is not one of gentle, best"),
    ],
)
def test_a_flag_that_would_not_be_used_is_refused_with_what_to_do(flags, sentence):
    with pytest.raises(config.UsageError) as error:
        job.read_settings(flags, "")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_trainer_gets_each_setting_once(place):
    _, trainer, given = job.read_settings(["--preset=best", "--lr=1e-3", "--max_iters=7"], "")
    flags = [word.split("=")[0] for word in job.trainer_command(trainer)[2:]]
    assert len(flags) == len(set(flags)) and {"--learning_rate", "--max_iters", "--init_from"} <= set(flags)
    assert config.parse(type(trainer), job.trainer_command(trainer)[2:], None) == trainer
    assert given == {"preset", "learning_rate", "max_iters"}


@pytest.mark.parametrize(
    "flags", [["--device=cuda:9"], ["--seed=-1"], ["--max_seq_len=8"], ["--base_text=talk.jsonl"]]
)
@pytest.mark.parametrize("fresh", [True, False])
def test_a_refusal_changes_nothing(done, place, flags, fresh):
    folder = done[0] if fresh else place
    before = contents(folder)
    result = run(folder, *flags, *(["--fresh"] if fresh else []))
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert contents(folder) == before and not (folder / "out/ft-1").exists()
    assert (folder / "out/ft").exists() == fresh


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(config.UsageError, match="is not UTF-8"):
        arianna_ft.main([*command()[2:], "--out_dir=" + os.fsdecode(b"caf\xe9")])
    assert sorted(p.name for p in place.iterdir()) == ["base.pt", "data", "talk.jsonl"]


def test_every_command_that_is_told_runs_as_it_is_pasted(place, tokenizer):
    write_model(build(TINY), place / "my base", "hf", tokenizer=tokenizer)
    (place / "my tok.model").write_bytes(Path(tokenizer.path).read_bytes())
    flags = [
        "--base=my base",
        "--tokenizer=my tok.model",
        "--out_dir=my runs",
        "--max_iters=2",
        "--eval_interval=2",
    ]
    result = run(place, *flags)
    assert result.returncode == 0, result.stderr
    commands = [line.strip() for line in result.stdout.split("Next:")[1].splitlines() if line.strip()]
    assert len(commands) >= 2
    (place / "run").write_text('#!/bin/sh\ntest -f "$1" && test "$2" = -z && test -f "$3"\n')
    (place / "run").chmod(0o755)
    for line in commands:
        shell = ["bash", "-c", line]
        told = subprocess.run(
            shell, cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200
        )
        assert told.returncode == 0, f"{line}\n{told.stderr}"
