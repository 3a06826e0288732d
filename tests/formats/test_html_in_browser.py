"""The page that talks, in headless Chromium: what a person does, and what the page must never do."""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page
from helpers import build
from test_html import (
    GREEDY,
    IDS,
    LOGITS,
    WIDE,
    continued,
    expected_logits,
    in_page,
    page_of,
    prompts_of,
    stored_as,
    texts,
    written,
)

from arianna.corpus.conversations import parse
from arianna.formats import html
from model import ModelArgs, Transformer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def browser():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Page(Path(folder)) as page:
        yield page


@pytest.fixture(scope="module")
def two(tmp_path_factory, tokenizer) -> Path:
    """A page of two tiny models."""
    voices = [html.Voice("tuned", build()), html.Voice("base", build(seed=8))]
    path = tmp_path_factory.mktemp("page") / "two.html"
    return written(path, html.page_bytes(voices, tokenizer))


@pytest.fixture
def talk(browser, tmp_path, tokenizer):
    """A page of a tiny model, opened. Whatever is done, nothing is logged, thrown or fetched."""
    browser.errors.clear()
    opened(browser, written(tmp_path / "a.html", page_of(build(), tokenizer, "int8")))
    yield browser
    assert not browser.errors
    assert [url for url in browser.requests if not url.endswith(".html")] == []


def opened(browser: Page, path: Path) -> Page:
    browser.open(path.as_uri())
    browser.wait("!at('send').disabled")
    return browser


def ask(browser: Page, question: str) -> str:
    """Type a question and Enter; the answer when it has ended."""
    turns = browser.evaluate("turns.length")
    browser.type(question)
    browser.press("Enter")
    browser.wait(f"turns.length === {turns + 1} && !waiting")
    return shown(browser)


def shown(browser: Page) -> str:
    return browser.evaluate("turns[turns.length - 1].node.querySelector('.said').textContent")


def computed(browser: Page, path: Path, code: str, **given):
    """What JavaScript returns in the page that computes with the page's own scripts."""
    opened(browser, path)
    inner = "const inner = (id) => document.getElementById(id).textContent;\n"
    told = browser.evaluate(f"(() => {{ {inner}{in_page(code, path, **given)} }})()")
    return told


# ---- the runtime ----


def test_the_ids_of_500_texts_are_the_tokenizers(browser, tmp_path, tokenizer):
    page = written(tmp_path / "a.html", page_of(build(), tokenizer))
    found = computed(browser, page, IDS, texts=texts())
    assert found == [tokenizer.encode(text) for text in texts()]


@pytest.mark.parametrize("kind", ["F32", "F16", "int8"])
@pytest.mark.parametrize("args", [ModelArgs(), WIDE], ids=["shipped", "shared heads"])
def test_logits_are_torchs(browser, tmp_path, tokenizer, args, kind):
    model = build(args) if args is WIDE else Transformer(args)
    if args is not WIDE:
        model.init_weights(3)
    page, prompts = written(tmp_path / "a.html", page_of(model, tokenizer, kind)), prompts_of(args)
    found = np.array(computed(browser, page, LOGITS, prompts=prompts))
    assert np.abs(found - expected_logits(stored_as(kind, model), prompts)).max() < 1e-4


def test_50_greedy_continuations_are_torchs(browser, tmp_path, tokenizer):
    prompts = [[1, *row] for row in np.random.default_rng(2).integers(3, 4096, (50, 11)).tolist()]
    page = written(tmp_path / "a.html", page_of(build(), tokenizer))
    assert computed(browser, page, GREEDY, prompts=prompts) == continued(build(), prompts)


# ---- a talk ----


def test_ten_turns_go_over_the_contexts_end(talk):
    for number in range(10):
        ask(talk, f"What is at number {number}?")
        talk.evaluate(
            "turns[turns.length - 1].answers[0] = 'A house.'"
        )  # a tiny model's own would fill its context
    asked = talk.evaluate("Array.from(document.querySelectorAll('.asked'), (p) => p.lastChild.textContent)")
    assert asked == [f"What is at number {number}?" for number in range(10)]
    past = talk.evaluate("document.querySelectorAll('.past').length")
    assert 0 < past < 10
    assert (
        talk.evaluate("document.querySelector('.horizon').textContent") == "too long ago for the model to see"
    )
    assert talk.evaluate("[...at('talk').children].findIndex((li) => li.className === 'horizon')") == past
    assert talk.evaluate("document.querySelectorAll('.tools:not([hidden])').length") == 1, (
        "the last can be tried again"
    )
    assert talk.evaluate("document.activeElement.id") == "question"
    assert talk.evaluate("at('heard').textContent").startswith(shown(talk)), (
        "a screen reader is told the whole answer"
    )


def test_html_in_a_text_is_text(talk):
    hostile = "<img src=x onerror=alert(1)><script>document.title='x'</script>&amp;"
    ask(talk, hostile)
    assert talk.evaluate("document.querySelector('.asked').lastChild.textContent") == hostile
    assert talk.evaluate("document.querySelectorAll('#talk img, #talk script').length") == 0


def test_an_empty_question_does_nothing(talk):
    talk.press("Enter")
    talk.type("  ")
    talk.press("Enter")
    assert talk.evaluate("turns.length") == 0
    assert talk.evaluate("at('welcome').hidden") is False


def test_of_a_long_question_the_end_is_kept_and_it_is_said(talk):
    ask(talk, "and then one house after another " * 500 + "and so it ended.")
    assert "Your question was too long" in talk.evaluate("document.querySelector('.notes').textContent")
    assert talk.evaluate("turns[0].read[0]").endswith("and so it ended.")


def test_the_same_seed_gives_the_same_talk_and_try_again_another_answer(talk):
    def twice():
        talk.evaluate("at('seed').value = 7; at('seed').oninput(); draws = 0; at('question').focus()")
        first = ask(talk, "Who are you?")
        talk.evaluate("document.querySelector('.tools button').click()")
        talk.wait("!waiting")
        again = shown(talk)
        talk.evaluate("at('start-over').click()")
        assert talk.evaluate("at('talk').children.length") == 0
        return first, again

    first, second = twice(), twice()
    assert first == second and first[0] != first[1]
    assert talk.evaluate("at('seed').value") == "7"


def test_an_answer_is_stopped_by_escape(talk):
    talk.evaluate("at('temperature').value = 0; at('question').focus()")
    whole = ask(talk, "Who are you?")
    talk.evaluate(
        "at('start-over').click();"
        "voices[0].worker.addEventListener('message', (event) => event.data.kind === 'text' && stop())"
    )
    part = ask(talk, "Who are you?")
    assert talk.evaluate("document.querySelector('.answer .note').textContent") == "Stopped."
    assert whole.startswith(part) and len(part) < len(whole)
    assert talk.evaluate("at('stop').hidden && !at('send').hidden")


def test_a_first_question_is_clicked_and_the_keyboard_reaches_all(talk):
    talk.evaluate("document.querySelector('#first button').click()")
    talk.wait("turns.length === 1 && !waiting")
    assert talk.evaluate("turns[0].question") == "How are you today?"
    reached = set()
    for _ in range(12):
        talk.press("Tab")
        reached.add(talk.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"start-over", "Save", "open-about", "Try again", "question", "send", "Settings"} <= reached
    fields = "[...document.querySelectorAll('input, textarea, button')]"
    unnamed = f"{fields}.filter((field) => !field.labels?.length && !field.textContent.trim())"
    assert talk.evaluate(f"{unnamed}.length") == 0, "each has a name for a screen reader"


def test_what_is_saved_can_be_trained_on(talk):
    talk.evaluate("at('system').value = 'A play.\\u0007'")
    ask(talk, "Who is\ud83d it?".encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    ask(talk, "Who is me?")
    talk.evaluate("turns.forEach((turn) => (turn.answers[0] = 'It is \\ud83d me.'))")
    line = parse(talk.evaluate("asLine()").encode(), 1)
    assert not line.fault and line.conversation.system == "A play."
    assert line.conversation.turns[1] == ("Who is me?", "It is \ufffd me.")
    assert talk.evaluate("asText()").startswith("Who is")
    assert talk.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_two_models_answer_side_by_side(browser, two):
    opened(browser, two)
    ask(browser, "Who are you?")
    names = browser.evaluate("[...document.querySelectorAll('.who')].map((e) => e.textContent)")
    answers = browser.evaluate("turns[0].answers")
    assert names == ["tuned", "base"] and answers[0] != answers[1]
    browser.evaluate("at('beside').click(); at('question').focus()")
    ask(browser, "And now?")
    assert browser.evaluate("turns[1].answers.length") == 1
    assert json.loads(browser.evaluate("asLine()"))[1] == {"role": "assistant", "content": answers[0]}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_at_the_side(browser, two, tmp_path, width, dark):
    opened(browser, two)
    ask(browser, "w" * 300)
    browser.look(tmp_path / "seen.png", width, 800, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.evaluate("at('settings').open = true; at('about').showModal()")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


# ---- what a browser lacks ----


def test_a_browser_without_workers_is_told(browser, two):
    removal = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.Worker")[
        "identifier"
    ]
    try:
        browser.open(two.as_uri())
        said = browser.wait(
            "at('opening').textContent.includes('could not be opened') && at('opening').textContent"
        )
        assert "A current Firefox, Chrome, Edge or Safari opens it." in said
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=removal)


def test_a_browser_without_javascript_is_told(browser, two):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(two.as_uri())
        assert "JavaScript is turned off" in browser.evaluate("document.querySelector('main').innerText")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_damaged_weights_are_told(browser, two, tmp_path):
    broken = re.sub(rb'"dim":32', b'"dim":640', two.read_bytes())
    browser.open(written(tmp_path / "broken.html", broken).as_uri())
    browser.wait("at('opening').textContent.includes('The model could not be opened')")
