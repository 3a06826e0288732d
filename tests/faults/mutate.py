"""Take guards out one by one and expect a test to notice: a test that stays green guards nothing.

    python tests/faults/mutate.py              # all
    python tests/faults/mutate.py lock fsync   # those with one of these words in their name

Works on a copy of the tree in a temporary folder.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from search_guards import GUARDS

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """A guard, the text in a file that is it, what stands there without it, and the test that must then
    fail."""

    guard: str
    file: str
    text: str
    without: str
    test: str


DISK, HOSTILE, PROCESS = (
    f"tests/faults/test_{name}.py" for name in ("disk_faults", "hostile_files", "process_faults")
)
CONVERSATIONS, KEYS = "tests/corpus/test_conversations.py", "tests/corpus/test_keys.py"
NO_FILE = "tests/corpus/test_sources.py::test_what_is_no_file_of_conversations_is_refused_in_one_sentence"
MUTATIONS = [
    Mutation(
        "an answer that was cut off goes behind the others",
        "arianna/best_of.py",
        "len(answers[i]) < room or ",
        "True or ",
        "tests/test_best_of.py::test_an_answer_that_ended_goes_before_one_cut_off_and_that_before_none",
    ),
    Mutation(
        "an answer that repeats itself goes behind the others",
        "arianna/best_of.py",
        "not repeats(text), ",
        "True, ",
        "tests/test_best_of.py::test_an_answer_that_repeats_itself_goes_behind_the_others",
    ),
    Mutation(
        "equal prompts are read once",
        "arianna/generate.py",
        "list(dict.fromkeys(beginnings))",
        "list(beginnings)",
        "tests/test_generate.py::test_equal_prompts_are_read_once_and_go_on_as_each_would_alone",
    ),
    Mutation(
        "fsync of the file",
        "arianna/system/files.py",
        "            os.fsync(f.fileno())\n",
        "",
        f"{DISK}::test_a_power_cut_leaves_the_old_file_or_the_new_one",
    ),
    Mutation(
        "fsync of the folder",
        "arianna/system/files.py",
        "        sync_folder(path.parent)\n",
        "",
        f"{DISK}::test_a_power_cut_leaves_the_old_file_or_the_new_one",
    ),
    Mutation(
        "a temporary file, then a rename",
        "arianna/system/files.py",
        'temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")',
        "temporary = path",
        f"{DISK}::test_a_kill_at_any_call_of_a_save_leaves_the_old_or_the_new_state",
    ),
    Mutation(
        "a failed fsync ends the run",
        "arianna/system/files.py",
        "            os.fsync(f.fileno())\n",
        "            try:\n                os.fsync(f.fileno())\n"
        "            except OSError:\n                os.fsync(f.fileno())\n",
        f"{DISK}::test_a_sync_that_fails_ends_the_run_and_is_not_tried_again",
    ),
    Mutation(
        "the log is synced before a state",
        "train_arianna.py",
        "        self.log.sync()",
        "        pass",
        f"{DISK}::test_a_power_cut_leaves_a_run_that_goes_on",
    ),
    Mutation(
        "the state before is kept until the new one is on the disk",
        "arianna/training/run_folder.py",
        "    checkpoint.save(folder / NEWEST, state, keep)",
        "    (folder / NEWEST).unlink(missing_ok=True)\n    checkpoint.save(folder / NEWEST, state)",
        f"{DISK}::test_a_kill_at_any_call_of_a_save_leaves_the_old_or_the_new_state",
    ),
    Mutation(
        "leftovers of killed writers are removed",
        "train_arianna.py",
        "            remove_leftovers(folder)\n",
        "            pass\n",
        f"{DISK}::test_what_killed_writers_left_behind_is_removed",
    ),
    Mutation(
        "leftovers of writers that live are not removed",
        "arianna/system/files.py",
        "if writer and not (shared and is_alive(int(writer[1]))):",
        "if writer:",
        "tests/system/test_files.py::test_what_killed_writers_left_is_removed_and_nothing_else",
    ),
    Mutation(
        "room on the disk is looked for first",
        "train_arianna.py",
        "        needs.check(cfg, model, group.size)\n",
        "            pass\n",
        f"{DISK}::test_a_full_disk_is_told_before_the_first_step",
    ),
    Mutation(
        "a full disk is named by the log",
        "arianna/system/files.py",
        'f"{file.name} could not be written ({len(data):,} bytes): {error.strerror}"',
        "error.strerror",
        "tests/system/test_files.py::test_a_line_that_cannot_be_added_names_the_file",
    ),
    Mutation(
        "check sums of checkpoints",
        "arianna/formats/checkpoint.py",
        "            broken = archive.testzip()\n",
        "            broken = None\n",
        f"{HOSTILE}::test_a_damaged_checkpoint_is_refused_or_what_was_saved",
    ),
    Mutation(
        "weights_only",
        "arianna/formats/checkpoint.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "only archives of torch.save are unpickled",
        "arianna/formats/checkpoint.py",
        "        check_zip(f, path)\n",
        "",
        f"{HOSTILE}::test_a_damaged_checkpoint_is_refused_or_what_was_saved",
    ),
    Mutation(
        "another tokenizer of the same size is refused",
        "arianna/formats/checkpoint.py",
        '    if noted and noted["sha256"] != sha256(tokenizer.path):\n',
        "    if False:\n",
        "tests/formats/test_table.py::test_another_tokenizer_of_the_same_size_is_refused",
    ),
    Mutation(
        "a GGUF's metadata are not read without end",
        "arianna/formats/gguf.py",
        "            if self.pieces_read > MOST_PIECES:\n",
        "            if False:\n",
        "tests/formats/test_gguf.py::test_a_list_that_is_long_beyond_measure_is_not_read_to_its_end",
    ),
    Mutation(
        "an export does not write over what is there",
        "arianna/export.py",
        "        check_outputs([out], inputs, cfg.force)\n",
        "",
        "tests/formats/test_llama2c_int8.py::test_a_file_that_is_there_is_not_written_over_unasked",
    ),
    Mutation(
        "compressed entries are refused",
        "arianna/formats/checkpoint.py",
        " or any(e.compress_type != zipfile.ZIP_STORED for e in entries)",
        "",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "no list of entries beyond measure",
        "arianna/formats/checkpoint.py",
        "> MAX_LIST_BYTES",
        "> 1 << 60",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "no tables beyond measure",
        "arianna/formats/checkpoint.py",
        "> MAX_TABLE",
        "> 1 << 60",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "what a run stored is of its kind",
        "arianna/training/run_folder.py",
        "    if not fits or",
        "    if",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "moments fit the weights",
        "arianna/training/optimizer.py",
        "            if moments[i][name].shape != shape or not all_finite(moments[i][name]):",
        "            if False:",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "not finite: no update",
        "train_arianna.py",
        "    if not (total.isfinite() and norm.isfinite()):",
        "    if False:",
        "tests/test_train_arianna.py::test_a_loss_that_is_not_finite_changes_nothing",
    ),
    Mutation(
        "faulty lines end the command",
        "arianna/corpus/prepare.py",
        '        raise FaultyError("\\n".join(sentences))',
        "        pass",
        f"{HOSTILE}::test_faulty_conversations_end_the_command_before_anything_is_written",
    ),
    Mutation(
        "corpus: given answers",
        "arianna/corpus/encoding.py",
        "        words = end = bytes([CONTEXT])",
        "        pass",
        "tests/corpus/test_encoding.py::test_texts_that_are_given_are_neither_trained_nor_scored",
    ),
    Mutation(
        "corpus: given answers in rows",
        "arianna/corpus/encoding.py",
        " | TERMINATOR | CONTEXT))",
        " | TERMINATOR))",
        "tests/corpus/test_encoding.py::test_a_long_conversation_with_given_answers_is_cut_as_one_without",
    ),
    Mutation(
        "corpus: weight",
        "arianna/corpus/records.py",
        "item[content_key], is_trained(item, number), item[role_key])",
        "item[content_key], True, item[role_key])",
        f"{CONVERSATIONS}::test_what_is_not_as_usual_is_read_and_told",
    ),
    Mutation(
        "corpus: fractional weight",
        "arianna/corpus/keys.py",
        "        if value not in (0, 1):  # True and False are equal to them",
        "        if False:",
        f"{CONVERSATIONS}::test_a_faulty_line_is_named_with_its_place_in_one_sentence",
    ),
    Mutation(
        "corpus: preferences",
        "arianna/corpus/keys.py",
        "if PREFERENCE.search(name) and record[key] not in NOTHING]",
        "if False]",
        f"{CONVERSATIONS}::test_a_kind_of_data_that_cannot_be_learned_is_refused_in_one_sentence",
    ),
    Mutation(
        "corpus: keys with a meaning",
        "arianna/corpus/keys.py",
        "        if meaning and says_something(meaning, record[key]):",
        "        if False:",
        f"{KEYS}::test_a_key_of_a_record_that_changes_the_meaning_is_refused_by_name",
    ),
    Mutation(
        "corpus: keys of a message",
        "arianna/corpus/records.py",
        "    check_message_keys(item, number)\n",
        "",
        f"{CONVERSATIONS}::test_a_kind_of_data_that_cannot_be_learned_is_refused_in_one_sentence",
    ),
    Mutation(
        "corpus: label",
        "arianna/corpus/keys.py",
        '    if record.get("label") is not None:',
        "    if False:",
        f"{CONVERSATIONS}::test_a_kind_of_data_that_cannot_be_learned_is_refused_in_one_sentence",
    ),
    Mutation(
        "corpus: one format a file",
        "arianna/corpus/prepare.py",
        "    if len(kinds) > 1:",
        "    if False:",
        "tests/corpus/test_prepare.py::test_a_file_of_several_kinds_of_records_is_told_in_one_sentence",
    ),
    Mutation(
        "corpus: who the model is",
        "arianna/corpus/conversations.py",
        "    check_names(checked)\n",
        "",
        f"{CONVERSATIONS}::test_a_faulty_line_is_named_with_its_place_in_one_sentence",
    ),
    Mutation(
        "corpus: no answer to train",
        "arianna/corpus/conversations.py",
        "    if len(conversation.turns) == sum(n % 2 for n in conversation.given if n >= 0):",
        "    if False:",
        f"{CONVERSATIONS}::test_conversations_without_an_answer_to_train_are_left_out_and_told",
    ),
    Mutation(
        "corpus: nothing is right",
        "arianna/corpus/prepare.py",
        "    if number > 1 and not kinds:",
        "    if False:",
        f"{CONVERSATIONS}::test_a_file_in_which_nothing_is_right_is_told_in_one_sentence",
    ),
    Mutation(
        "corpus: a file without JSON",
        "arianna/corpus/recognition.py",
        "    check_head(source, head)\n",
        "",
        "tests/corpus/test_sources.py::test_what_is_no_file_of_conversations_is_refused_in_one_sentence",
    ),
    Mutation(
        "corpus: a broken array",
        "arianna/corpus/sources.py",
        'n,")) != (b"]" if source.container == "array" else b""):',
        'n,")) and not rest:',
        "tests/corpus/test_sources.py::test_a_file_that_was_not_written_to_its_end_is_told",
    ),
    Mutation(
        "corpus: a split that misses",
        "arianna/corpus/split.py",
        "        if held <= 1.5 * wanted and held < number:",
        "        if True:",
        "tests/corpus/test_split.py"
        "::test_a_split_that_would_hold_out_too_many_takes_in_more_of_the_conversation",
    ),
    Mutation(
        "corpus: a split that is fine",
        "arianna/corpus/split.py",
        "        if held <= 1.5 * wanted and held < number:",
        "        if False:",
        "tests/corpus/test_split.py::test_a_split_that_misses_its_tenth_by_less_than_half_stays_as_it_is",
    ),
    Mutation(
        "corpus: a file that changes",
        "arianna/corpus/prepare.py",
        "        elif record.fault or not record.counts[LEFT_OUT]:",
        "        elif False:",
        "tests/corpus/test_prepare.py::test_a_file_that_changes_under_way_is_refused",
    ),
    Mutation(
        "corpus: records as prose",
        "arianna/corpus/texts.py",
        "    if holds_records(data[:HEAD]):",
        "    if False:",
        "tests/test_arianna_data.py::test_records_are_no_prose_for_either_command",
    ),
    Mutation(
        "corpus: a folder for shards",
        "arianna_data.py",
        "    check_outputs([cfg.out], [*inputs, cfg.model], cfg.force, ours)",
        "    pass",
        "tests/test_arianna_data.py::test_shards_are_put_into_a_folder_of_their_own",
    ),
    Mutation(
        "tokenizer: trained over another",
        "arianna_data.py",
        '    check_outputs([model, model.with_suffix(".bin")], files, cfg.force)',
        "    pass",
        "tests/test_arianna_data.py::test_the_shipped_tokenizer_is_not_replaced_by_a_forgotten_flag",
    ),
    Mutation(
        "tokenizer: bin over another",
        "tokenizer.py",
        "    check_outputs([out], [tokenizer.path], cfg.force)",
        "    pass",
        "tests/test_tokenizer.py::test_the_command_never_writes_over_another_file",
    ),
    Mutation(
        "tokenizer: reasons",
        "tokenizer.py",
        "    except RuntimeError as error:\n        raise ValueError(why_not",
        "    except ZeroDivisionError as error:\n        raise ValueError(why_not",
        "tests/test_tokenizer.py::test_why_no_tokenizer_can_be_trained_is_told_in_a_sentence",
    ),
    Mutation(
        "the lock on a folder",
        "arianna/system/processes.py",
        "        held.acquire(timeout=10 if PARENT in os.environ else 0)",
        "        pass",
        f"{PROCESS}::test_of_two_that_start_at_once_one_has_the_folder_until_it_is_killed",
    ),
    Mutation(
        "the lock's holder is named, not one that was killed",
        "arianna/system/processes.py",
        " and is_alive(int(match[1])) is not False:",
        ":",
        "tests/system/test_processes.py::test_the_note_of_a_dead_holder_is_not_taken_for_the_living_ones",
    ),
    Mutation(
        "a signal to the trainer alone, before it can answer",
        "arianna/system/processes.py",
        "    if (passed and code <= 0) or -code in (signal.SIGINT, signal.SIGTERM):",
        "    if passed and code <= 0:",
        "tests/system/test_processes.py"
        "::test_a_signal_to_a_child_that_cannot_answer_it_yet_stops_the_wrapper_in_good_order",
    ),
    Mutation(
        "a child ends with its wrapper",
        "arianna/system/processes.py",
        "        os._exit(1)\n",
        "        return\n",
        "tests/system/test_processes.py::test_a_child_ends_with_its_wrapper",
    ),
    Mutation(
        "a refusal of a run that is begun anew brings the old one back",
        "arianna/system/rollback.py",
        "                aside.rename(folder)\n",
        "                pass\n",
        "tests/system/test_rollback.py::test_a_folder_that_was_moved_away_comes_back",
    ),
    Mutation(
        "a refusal leaves no empty folder above the new one",
        "arianna/system/rollback.py",
        "            parent.rmdir()\n",
        "            pass\n",
        "tests/system/test_rollback.py::test_a_new_folder_goes_with_the_new_ones_above_it",
    ),
    Mutation(
        "a refusal never deletes saved steps",
        "arianna/system/rollback.py",
        "new and not (saved and any(folder.glob(saved)))",
        "new",
        "tests/system/test_rollback.py::test_a_run_that_has_saved_steps_is_never_deleted",
    ),
    Mutation(
        "a device or a pipe is not replaced by a file",
        "arianna/system/files.py",
        "        if is_stream(path):",
        "        if False:",
        "tests/system/test_files.py::test_a_pipe_is_written_into_and_not_replaced",
    ),
    Mutation(
        "a write that fails names the file",
        "arianna/system/files.py",
        "        with contextlib.suppress(OSError):  # gone already, unless something failed",
        "        if True:",
        "tests/system/test_files.py::test_a_write_that_fails_names_the_file_and_not_the_temporary_one",
    ),
    Mutation(
        "a GGUF file of an unknown version is told so",
        "arianna/formats/gguf.py",
        "        check_beginning(path)\n",
        "",
        "tests/formats/test_gguf.py::test_a_file_that_cannot_be_used_is_refused",
    ),
    Mutation(
        "a shape that lacks a number names it",
        "arianna/formats/shapes.py",
        "    if missing:",
        "    if False:",
        "tests/formats/test_hf.py::test_a_folder_that_cannot_be_used_is_refused",
    ),
    Mutation(
        "the pipeline goes on without its readable copy",
        "arianna/training/job.py",
        ", writable=False)",
        ")",
        "tests/faults/test_process_faults.py::test_a_folder_that_cannot_be_written_is_told_or_left_alone",
    ),
    Mutation(
        "the trainer's packages are looked for before they are imported",
        "train_arianna.py",
        "    from arianna.system import environment\n\n    environment.prepare",
        "    from arianna.system import environment, processes\n\n    environment.prepare",
        "tests/system/test_environment.py::test_each_command_says_that_packages_are_missing",
    ),
    Mutation(
        "words without quotes are one question",
        "sample.py",
        "if bare and open_question and",
        "if False and",
        "tests/test_sample.py::test_words_without_quotes_are_one_question",
    ),
    Mutation(
        "a model that fitted every pair before is not blamed",
        "arianna/reporting/verdict.py",
        "if listening.base == listening.tuned == 1:",
        "if False:",
        "tests/reporting/test_report.py"
        "::test_a_model_that_fitted_every_pair_before_is_not_said_to_listen_no_better",
    ),
    Mutation(
        "a read-only folder is told before any work",
        "arianna/system/files.py",
        "not os.access(folder, os.W_OK | os.X_OK)",
        "False",
        "tests/system/test_files.py::test_a_read_only_folder_is_told_before_any_work",
    ),
    Mutation(
        "a result that no run made is not written over",
        "arianna/system/files.py",
        "        if not force and is_occupied(output) and output.absolute() not in made:",
        "        if False:",
        "tests/system/test_files.py::test_what_is_there_needs_force_unless_this_run_made_it",
    ),
    Mutation(
        "a signal is passed on to the trainer",
        "arianna/system/processes.py",
        "child.terminate()  # not SIGINT",
        "pass  #",
        "tests/system/test_processes.py::test_a_signal_to_the_wrapper_reaches_its_child_once",
    ),
    Mutation(
        "what is done is saved after a signal",
        "train_arianna.py",
        "        if not state.finished(cfg):  # else the last evaluation has saved\n"
        "            self.save()\n",
        "",
        "tests/test_train_arianna.py::test_a_signal_ends_the_run_after_its_step_with_all_saved",
    ),
    Mutation(
        "steps are compiled only where that is faster",
        "arianna/training/compilation.py",
        "    wins = group.any(group.is_main and fast < CLEARLY * plain)",
        "    wins = True",
        "tests/training/test_compilation.py::"
        "test_a_long_run_is_compiled_where_its_passes_are_then_clearly_faster",
    ),
    Mutation(
        "what was asked for or begun is not timed",
        "arianna/training/compilation.py",
        "timed = settled is None and",
        "timed =",
        "tests/training/test_compilation.py",
    ),
    Mutation(
        "timing compiled passes leaves no gradient",
        "arianna/training/compilation.py",
        "    model.zero_grad(set_to_none=True)\n    wins",
        "    wins",
        "tests/training/test_compilation.py::test_timing_both_ways_leaves_the_run_as_it_is",
    ),
    Mutation(
        "a closed terminal is survived",
        "arianna/system/processes.py",
        '    if hasattr(signal, "SIGHUP"):',
        "    if False:",
        "tests/system/test_environment.py::test_a_closed_terminal_does_not_end_the_run",
    ),
    Mutation(
        "a closed pipe is survived",
        "arianna/system/environment.py",
        "        except OSError as error:  # what is still in the buffer goes nowhere too\n",
        "        except KeyError as error:\n",
        "tests/system/test_environment.py::test_the_end_of_a_pipe_does_not_end_the_run",
    ),
    Mutation(
        "a stall is told",
        "arianna/training/watchdog.py",
        "                self.tell(self.step, seconds, usual)",
        "                pass",
        "tests/training/test_watchdog.py",
    ),
    Mutation(
        "time asleep counts as a stall",
        "arianna/training/watchdog.py",
        'getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))',
        'getattr(time, "CLOCK_MONOTONIC", None)',
        "tests/training/test_watchdog.py::test_the_time_that_the_machine_sleeps_counts",
    ),
    Mutation(
        "the order of rows follows from the step",
        "train_arianna.py",
        "self.task.iter_batches(state.step)",
        "self.task.iter_batches(0)",
        "tests/test_train_arianna.py::test_a_killed_run_ends_with_the_same_weights",
    ),
    Mutation(
        "AdamW's moments go on",
        "arianna/training/optimizer.py",
        '    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})\n',
        "",
        "tests/test_train_arianna.py::test_a_killed_run_ends_with_the_same_weights",
    ),
    Mutation(
        "scores are never written over an input",
        "arianna/evaluate.py",
        "    check_outputs([cfg.out], cfg.inputs, cfg.force)\n",
        "",
        "tests/scoring/test_evaluate.py::test_scores_are_never_written_over_an_input",
    ),
    Mutation(
        "a model that listens no better is told of",
        "arianna/reporting/verdict.py",
        "    if likelier and listening.tuned <= listening.base:",
        "    if False:",
        "tests/reporting/test_report.py"
        "::test_a_model_whose_answers_only_got_likelier_is_told_in_the_same_breath",
    ),
    Mutation(
        "pairs of one question are no pairs",
        "arianna/scoring/listening.py",
        " if differ(chosen[i], chosen[j])]",
        "]",
        "tests/scoring/test_listening.py::test_conversations_with_one_question_or_one_answer_are_not_paired",
    ),
    Mutation(
        "both sides of a pair score the same tokens",
        "arianna/scoring/listening.py",
        "    both = min(len(own), len(other))",
        "    both = max(len(own), len(other))",
        "tests/scoring/test_listening.py::test_a_model_that_ignores_questions_is_right_half_of_the_time",
    ),
    Mutation(
        "text that is foreign to the base is told apart from an untrained base",
        "arianna/reporting/verdict.py",
        "    if held_out > guess + FOREIGN:",
        "    if False:",
        "tests/reporting/test_report.py::test_to_a_base_that_is_worse_than_guessing_the_text_is_foreign",
    ),
    Mutation(
        "control characters are made visible in Markdown",
        "arianna/reporting/render.py",
        "    text = visible(str(value))",
        "    text = str(value)",
        "tests/reporting/test_report.py"
        "::test_control_characters_and_direction_overrides_are_made_visible_in_all_that_people_read",
    ),
    Mutation(
        "control characters are made visible in HTML",
        "arianna/reporting/render.py",
        "        yield visible(text[start:end]), non_word, copied",
        "        yield text[start:end], within[0], within[1]",
        "tests/reporting/test_report.py"
        "::test_control_characters_and_direction_overrides_are_made_visible_in_all_that_people_read",
    ),
    Mutation(
        "printed commands name only files that are there",
        "arianna/system/commands.py",
        " if path is not None and Path(path).exists()}",
        " if path is not None}",
        "tests/system/test_commands.py::test_a_file_that_is_gone_is_in_no_command",
    ),
    Mutation(
        "printed paths are quoted",
        "arianna/system/commands.py",
        '    return quote(f"./{word}" if word.startswith("-") else word)',
        "    return word",
        "tests/system/test_commands.py::test_every_file_of_a_command_is_there_for_a_shell",
    ),
    Mutation(
        "a run that goes on measures no format",
        "train_arianna.py",
        "        if state.dtype is None:",
        "        if True:",
        "tests/training/test_timing.py::test_the_clearly_faster_format_is_taken_told_and_kept",
    ),
    Mutation(
        "the format that a run began in is kept",
        "arianna/training/state.py",
        '        state.dtype = run.get("dtype") or',
        "        state.dtype =",
        "tests/training/test_timing.py::test_the_clearly_faster_format_is_taken_told_and_kept",
    ),
    Mutation(
        "near a tie float32 is taken",
        "train_arianna.py",
        "< CLEARLY * seconds",
        "< seconds",
        "tests/training/test_timing.py::test_the_clearly_faster_format_is_taken_told_and_kept",
    ),
    Mutation(
        "a short run is not timed",
        "arianna/training/timing.py",
        " and tokens_of(cfg, task) >= MEASURED",
        "",
        "tests/training/test_timing.py"
        "::test_a_long_run_chooses_and_a_short_one_or_one_that_was_told_does_not",
    ),
    Mutation(
        "timing leaves the model as it is",
        "arianna/training/timing.py",
        "copy.deepcopy(base)",
        "base",
        "tests/training/test_timing.py::test_both_formats_are_timed_and_the_model_is_left_as_it_is",
    ),
    Mutation(
        "Muon computes in a number format that the processor has",
        "arianna/training/optimizer.py",
        ' if has_bfloat16(groups[0]["params"][0].device) else torch.float32',
        "",
        "tests/training/test_optimizer.py::"
        "test_matrices_are_made_orthogonal_in_numbers_that_the_processor_has",
    ),
    Mutation(
        "a state of another base is not gone on with",
        "data/learn_marks.py",
        '["made_of"] != made_of',
        '["step"] < 0',
        "tests/test_learn_marks.py::test_a_state_of_another_base_is_not_gone_on_with",
    ),
    Mutation(
        "a marked message has its form",
        "data/learn_marks.py",
        "if not all(fits):",
        "if False:",
        "tests/test_learn_marks.py::test_a_line_of_another_form_is_named",
    ),
    Mutation(
        "Muon's moments can be loaded",
        "arianna/training/optimizer.py",
        "    def __setstate__(",
        "    def setstate(",
        "tests/training/test_optimizer.py::test_loaded_moments_go_on_to_the_last_bit",
    ),
    Mutation(
        "settings that change the weights may not differ",
        "arianna/training/run_folder.py",
        " if k not in free and v != then[k]]",
        " if False]",
        "tests/test_train_arianna.py::test_a_run_does_not_go_on_with_another_optimizer_schedule_or_format",
    ),
    Mutation(
        "another tokenizer of the same size",
        "arianna/training/run_folder.py",
        "    if tokenizer and cfg.tokenizer and",
        "    if False and",
        "tests/test_train_arianna.py::test_another_tokenizer_of_the_same_size_is_refused",
    ),
    Mutation(
        "another tokenizer than the base's",
        "train_arianna.py",
        "            formats.check_tokenizer(cfg.base, tokenizer)\n",
        "            pass\n",
        "tests/test_train_arianna.py::test_another_tokenizer_of_the_same_size_is_refused",
    ),
    Mutation(
        "a format of a hostile state",
        "arianna/training/run_folder.py",
        '    fits = fits and run.get("dtype") in (None, "float32", "bfloat16")\n',
        "",
        f"{HOSTILE}::test_a_hostile_checkpoint_runs_nothing_and_is_refused_in_a_sentence",
    ),
    Mutation(
        "samples written over nothing",
        "sample.py",
        "        check_outputs([cfg.out] if cfg.out is not None else [], inputs, cfg.force)\n",
        "",
        "tests/test_sample.py::test_a_file_that_is_there_is_replaced_with_force_alone",
    ),
    Mutation(
        "a second model's own tokenizer",
        "sample.py",
        "        formats.check_tokenizer(name, tokenizer)\n",
        "        pass\n",
        "tests/test_sample.py::test_a_second_model_with_another_tokenizer_is_refused",
    ),
    Mutation(
        "typography as in training",
        "arianna/chat.py",
        "        plain, changed, _ = ascii_typography(text, self.tokenizer)\n",
        "        plain, changed = text, 0\n",
        "tests/test_chat.py::test_typography_becomes_ascii_as_in_training_and_is_told_once",
    ),
    Mutation(
        "control characters from a model",
        "arianna/system/terminal.py",
        '    print(visible(text), end="", flush=True)\n',
        '    print(text, end="", flush=True)\n',
        "tests/system/test_terminal.py::test_control_characters_are_spelled_out",
    ),
    Mutation(
        "choices in random order",
        "arianna/scoring/blind.py",
        "        coin.shuffle(sides)\n",
        "",
        "tests/scoring/test_blind.py::test_each_choice_is_kept_by_the_side_that_was_meant_whatever_the_order",
    ),
    Mutation(
        "shapes of absurd size",
        "arianna/formats/shapes.py",
        "        if value is not None and value > most:\n",
        "        if False:\n",
        "tests/formats/test_shapes.py::test_a_shape_of_absurd_size_is_refused",
    ),
    Mutation(
        "corpus: keys of a message, however they are spelled",
        "arianna/corpus/keys.py",
        "        if says_something(meaning, value):\n",
        "        if False:\n",
        f"{KEYS}::test_a_key_of_a_message_that_changes_the_meaning_is_refused_by_name",
    ),
    Mutation(
        "corpus: two answers with numbers",
        "arianna/corpus/keys.py",
        "sum(ONE_OF_TWO.fullmatch(name) is not None for name in names.values()) < 2:",
        "True:",
        f"{KEYS}::test_a_preference_pair_is_refused_however_its_keys_are_spelled",
    ),
    Mutation(
        "corpus: weight, however it is spelled",
        "arianna/corpus/keys.py",
        "if canonical(key) in TRAINED_KEYS and value is not None",
        "if key in TRAINED_KEYS and value is not None",
        f"{KEYS}::test_an_answer_that_is_marked_as_not_to_be_trained_is_context",
    ),
    Mutation(
        "corpus: rows for testing",
        "arianna/corpus/keys.py",
        "and canonical(split) in TESTS:",
        "and False:",
        f"{KEYS}::test_a_key_of_a_record_that_changes_the_meaning_is_refused_by_name",
    ),
    Mutation(
        "corpus: two system texts beside",
        "arianna/corpus/keys.py",
        "    if any(texts[key] != texts[first] for key in others):",
        "    if False:",
        f"{KEYS}::test_of_two_system_texts_none_wins",
    ),
    Mutation(
        "corpus: columns",
        "arianna/corpus/records.py",
        "    check_columns(keys, question, answer)\n",
        "",
        NO_FILE,
    ),
    Mutation(
        "corpus: parts without text",
        "arianna/corpus/records.py",
        "        if isinstance(item, dict) and text is None:",
        "        if False:",
        f"{CONVERSATIONS}::test_a_kind_of_data_that_cannot_be_learned_is_refused_in_one_sentence",
    ),
    Mutation(
        "corpus: an encoding of wide characters",
        "arianna/corpus/recognition.py",
        "    if encoding := wide_encoding(head):",
        "    if encoding := None:",
        NO_FILE,
    ),
    Mutation(
        "corpus: an encoding that is not Windows-1252",
        "arianna/corpus/recognition.py",
        "> len(head) // 6:",
        "> len(head):",
        NO_FILE,
    ),
    Mutation(
        "corpus: binary data",
        "arianna/corpus/recognition.py",
        "    if is_binary(head):",
        "    if False:",
        NO_FILE,
    ),
    Mutation(
        "corpus: a tar archive",
        "arianna/corpus/recognition.py",
        '    if head[257:262] == b"ustar":',
        "    if False:",
        NO_FILE,
    ),
    Mutation(
        "corpus: a command for a compressed file",
        "arianna/corpus/recognition.py",
        'iconv" if source.zipped else "iconv"',
        'iconv" if False else "iconv"',
        "tests/corpus/test_sources.py::test_the_command_in_a_refusal_can_be_pasted",
    ),
    Mutation(
        "corpus: equal conversations are trained",
        "arianna/corpus/split.py",
        "            if len(others) >= wanted / 2:",
        "            if False:",
        "tests/corpus/test_split.py::test_where_too_many_are_equal_they_are_trained_and_others_are_held_out",
    ),
    Mutation(
        "an output that is an input",
        "arianna/system/files.py",
        "            if how := overlap(output, source):",
        '            if how := "":',
        "tests/system/test_files.py::test_an_output_that_is_an_input_is_refused_even_with_force",
    ),
    Mutation(
        "a name that is not UTF-8",
        "arianna/system/files.py",
        "    except UnicodeEncodeError:",
        "    except ZeroDivisionError:",
        "tests/system/test_files.py::test_a_name_that_is_empty_or_not_utf_8_is_refused",
    ),
    Mutation(
        "a result of another's in the folder",
        "arianna/training/job.py",
        '    check_outputs(outputs, inputs, cfg.force, ours, instead="another --out_dir", writable=False)\n',
        "",
        "tests/test_arianna_ft.py::test_what_no_run_made_is_not_written_over_without_force",
    ),
    Mutation(
        "files beside an export",
        "arianna/export.py",
        "        check_outputs(map(out.with_name, further), inputs, cfg.force)\n",
        "",
        "tests/formats/test_export.py",
    ),
    Mutation(
        "a refusal rolls back in the pipeline",
        "arianna_ft.py",
        '    with rolled_back(cfg.run, cfg.fresh, others=(cfg.corpus,), saved="ckpt*.pt") as aside:\n',
        "    with contextlib.nullcontext() as aside:\n",
        "tests/test_arianna_ft.py::test_a_refusal_changes_nothing",
    ),
    Mutation(
        "a run that has lost its states is not begun over its weights",
        "arianna/training/state.py",
        "        check_state(folder)\n",
        "        pass\n",
        "tests/test_train_arianna.py::test_a_run_without_its_states_is_not_begun_over_its_weights",
    ),
    Mutation(
        "a missing log is told before training",
        "arianna/training/resumption.py",
        "    elif progress.step and not (folder / log.NAME).is_file():",
        "    elif False:",
        "tests/test_arianna_ft.py::test_what_is_missing_of_a_run_is_told_by_what_it_was_for",
    ),
    Mutation(
        "missing weights are told by what they are for",
        "arianna/scoring/choose.py",
        "    if not path.is_file():",
        "    if False:",
        "tests/test_arianna_ft.py::test_what_is_missing_of_a_run_is_told_by_what_it_was_for",
    ),
    Mutation(
        "a flag of true or false takes no next word",
        "arianna/system/config.py",
        "names_one(flag, bools) and not is_decision(word)",
        "False",
        "tests/system/test_config.py::test_a_bool_does_not_swallow_the_next_word",
    ),
    Mutation(
        "control characters in a sentence of ours",
        "arianna/system/config.py",
        "        print(visible(str(error)), file=sys.stderr)",
        "        print(error, file=sys.stderr)",
        "tests/system/test_config.py::test_control_characters_in_a_sentence_are_spelled_out",
    ),
    Mutation(
        "a refusal of the trainer leaves no folder",
        "arianna/training/run_folder.py",
        '    with rolled_back(folder, fresh, saved="ckpt*.pt") as aside:',
        "    with contextlib.nullcontext() as aside:",
        "tests/test_train_arianna.py::test_a_refusal_leaves_no_new_folder",
    ),
    Mutation(
        "an output in a file",
        "arianna/system/files.py",
        "parent.exists() and not parent.is_dir()",
        "False",
        "tests/system/test_files.py::test_nothing_is_written_into_a_file",
    ),
    Mutation(
        "an address in place of a model",
        "arianna/formats/table.py",
        '    if "://" in str(path):',
        "    if False:",
        "tests/formats/test_checkpoint.py::test_an_address_is_no_path",
    ),
    Mutation(
        "a text in another encoding",
        "arianna/corpus/texts.py",
        "        if encoding := recognition.wide_encoding(data[:HEAD]):",
        "        if encoding := None:",
        "tests/corpus/test_texts.py::test_a_text_in_another_encoding_is_told_as_what_it_is",
    ),
    Mutation(
        "a closed or full stream",
        "arianna/system/environment.py",
        "                raise SystemExit(1) from None",
        "                pass",
        "tests/test_streams.py::test_a_command_ends_in_good_order_whatever_its_streams_are",
    ),
    Mutation(
        "a flag of the other command",
        "arianna/corpus/settings.py",
        "instead=COMMANDS.get(command))",
        "instead={})",
        "tests/test_arianna_data.py::test_what_a_command_cannot_use_is_one_sentence",
    ),
]
MUTATIONS += [
    Mutation(f"search: {guard}", *place, f"tests/searching/test_{test.replace('::', '.py::test_')}")
    for guard, *place, test in GUARDS
]


def copy(folder: Path) -> Path:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def notices(mutation: Mutation, tree: Path) -> tuple[str, float]:
    """What the test says without the guard: red, green, or what else pytest ended with."""
    path = tree / mutation.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutation.text) != 1:
        return f"stands {whole.count(mutation.text)} times", 0.0
    path.write_text(whole.replace(mutation.text, mutation.without), encoding="utf-8")
    words = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutation.test]
    try:
        done = subprocess.run(words, cwd=tree, capture_output=True, text=True, timeout=600)
        took = re.search(r"in ([\d.]+)s", done.stdout)
        return {0: "green", 1: "red"}.get(done.returncode, f"pytest ended with {done.returncode}"), float(
            took[1]
        ) if took else 0.0
    except subprocess.TimeoutExpired:
        return "red", 600.0
    finally:
        path.write_text(whole, encoding="utf-8")


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(w in m.guard for w in words)]
    width, unnoticed = max(len(m.guard) for m in chosen), 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copy(Path(folder))
        for mutation in chosen:
            said, seconds = notices(mutation, tree)
            unnoticed += said != "red"
            print(
                f"{mutation.guard:{width}}  {mutation.file:34}  {said:6}  {seconds:5.1f} s  "
                f"{mutation.test.split('::')[-1]}",
                flush=True,
            )
    print(f"without its guard, a test fails in {len(chosen) - unnoticed} of {len(chosen)} cases")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
