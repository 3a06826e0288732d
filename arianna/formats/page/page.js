// The page: questions from a person to the model in its worker, and the answers as they come. Nothing is
// stored, nothing is sent.
"use strict";

const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);

// {question, read, answers, node, columns}; for each model that was asked: what it read of the question, its
// answer, and where that stands
let turns = [];
let voices = []; // a model in its worker: {worker, hear}
let system = ""; // system text as the model read it last
let draws = 0; // answers drawn in this talk: each has a seed of its own
let waiting = 0; // models that have not ended their answer
let seedGiven = false; // by the person; else each talk has a new one

// ---- the models ----

function open() {
  const url = URL.createObjectURL(new Blob([at("worker").textContent], { type: "text/javascript" }));
  const opened = data.models.map((shape, i) => new Promise((ready, failed) => {
    const voice = { worker: new Worker(url), hear: null };
    voices.push(voice);
    voice.worker.onerror = (event) => {
      const message = event.message || "its worker does not start";
      failed(new Error(message));
      voice.hear?.({ kind: "failed", message });
    };
    voice.worker.onmessage = ({ data: message }) => {
      if (message.kind === "ready") ready();
      else if (message.kind === "failed" && !voice.hear) failed(new Error(message.message));
      else voice.hear(message);
    };
    voice.worker.postMessage({ kind: "open", about: data, shape, text: at(`weights-${i}`).textContent });
  }));
  return Promise.all(opened);
}

function number(id) { // a field's value, or the one that it came with where it is empty or out of bounds
  const field = at(id);
  return field.value !== "" && field.validity.valid ? Number(field.value) : Number(field.defaultValue);
}

function sampling() {
  return Object.fromEntries(["temperature", "top_p", "top_k", "best_of"].map((id) => [id, number(id)]));
}

// ---- asking ----

function ask(question) {
  if (!question.trim() || waiting || at("send").disabled) return;
  const turn = { question: question.trim(), read: [], answers: [], columns: [] };
  draw(turn);
  turns.push(turn);
  answer(turn);
}

function answer(turn) {
  const shown = asked(), earlier = turns.slice(0, turns.indexOf(turn));
  const seed = (number("seed") + draws++) % 2 ** 32;
  turn.answers = shown.map(() => "");
  turn.columns = shown.map((i) => column(data.models[i].name, shown.length > 1));
  const answers = turn.node.querySelector(".answers");
  answers.classList.toggle("pair", shown.length > 1);
  answers.replaceChildren(...turn.columns.map((c) => c.node));
  turn.node.querySelector(".notes").replaceChildren();
  busy(shown.length);
  shown.forEach((model, i) => {
    const before = earlier.filter((t) => t.answers[i]);
    voices[model].hear = (message) => hear[message.kind](turn, i, message, before);
    voices[model].worker.postMessage({
      kind: "answer", seed, sampling: sampling(), system: at("system").value, question: turn.question,
      turns: before.map((t) => [t.read[i], t.answers[i]]),
    });
  });
  toEnd(true);
}

function asked() { // numbers of the models that answer
  return at("beside").checked ? data.models.map((_, i) => i) : [0];
}

const ENDS = { full: "Its context is full; it cannot go on.", stopped: "Stopped." };

const hear = { // what a worker tells of an answer
  prompt(turn, i, { question, system: read, dropped, notes }, before) {
    turn.read[i] = question;
    if (i === 0) system = read;
    for (const text of notes) note(turn, text);
    if (i === 0) horizon(dropped ? before[dropped] ?? turn : null);
  },
  text(turn, i, { text }) {
    turn.columns[i].said.textContent = text;
    toEnd();
  },
  end(turn, i, { why, text, tokens, drawn, seconds }) {
    turn.answers[i] = text;
    finish(turn, i, text || "(It said nothing.)", ENDS[why]);
    if (tokens < 2) return;
    const speed = Math.round(drawn / seconds);
    at("speed").textContent = `The last answer had ${tokens} tokens, of ${drawn} drawn, ${speed} a second.`;
  },
  failed(turn, i, { message }) {
    finish(turn, i, "", `It could not answer: ${message}`);
  },
};

function finish(turn, i, text, why) {
  const { said, end, name } = turn.columns[i];
  said.textContent = text;
  said.removeAttribute("aria-busy");
  end.textContent = why ?? "";
  at("heard").textContent = [turn.columns.length > 1 ? `${name}:` : "", text, why].filter(Boolean).join(" ");
  busy(waiting - 1);
  toEnd();
}

function busy(count) {
  const back = waiting && !count && document.activeElement === at("stop");
  waiting = count;
  at("send").hidden = count > 0;
  at("stop").hidden = count === 0;
  at("welcome").hidden = turns.length > 0;
  at("start-over").hidden = at("save").hidden = turns.length === 0 || count > 0;
  turns.forEach((turn, i) => (turn.node.querySelector(".tools").hidden = count > 0 || i + 1 < turns.length));
  if (back) at("question").focus();
}

function stop() {
  for (const { worker } of voices) worker.postMessage({ kind: "stop" });
}

function startOver() {
  turns = [];
  draws = 0;
  at("talk").replaceChildren();
  at("heard").textContent = "A new talk.";
  if (!seedGiven) newSeed();
  busy(0);
  at("question").focus();
}

function newSeed() {
  at("seed").value = at("seed").defaultValue = String(Math.floor(Math.random() * 1e6));
}

// ---- what is seen ----

function element(tag, name, text = "") { // text is only ever text
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function draw(turn) {
  const question = element("p", "asked"), tools = element("p", "tools");
  const again = element("button", "", "Try again");
  question.append(element("span", "unseen", "You: "), turn.question);
  again.type = "button";
  again.onclick = () => (answer(turn), at("question").focus());
  tools.append(again);
  turn.node = element("li", "turn");
  turn.node.append(question, element("div", "answers"), element("div", "notes"), tools);
  at("talk").append(turn.node);
}

function column(name, named) {
  const node = element("div", "answer"), said = element("p", "said"), end = element("p", "note");
  said.setAttribute("aria-busy", "true");
  node.append(element("h3", named ? "who" : "unseen", name), said, end);
  return { name, node, said, end };
}

function note(turn, text) {
  const notes = turn.node.querySelector(".notes");
  const there = Array.from(notes.children, (line) => line.textContent);
  if (!there.includes(text)) notes.append(element("p", "note", text)); // both models may say so
  at("heard").textContent = text;
}

function horizon(turn) { // a line above the first turn that the model still sees
  document.querySelector(".horizon")?.remove();
  const first = turn ? turns.indexOf(turn) : 0;
  turns.forEach(({ node }, i) => node.classList.toggle("past", i < first));
  if (!turn) return;
  const line = element("li", "horizon");
  line.append(element("span", "", "too long ago for the model to see"));
  turn.node.before(line);
}

function toEnd(always = false) { // follow the text, unless the person has scrolled up to read
  const page = document.documentElement, left = page.scrollHeight - page.clientHeight - page.scrollTop;
  if (always || left < 160) page.scrollTop = page.scrollHeight;
}

function grow() {
  const field = at("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

// ---- saving ----

// what arianna_ft.py takes: no control characters, no halves of surrogate pairs
function plain(text) {
  const kept = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
  return new TextDecoder().decode(new TextEncoder().encode(kept));
}

function save(name, text) {
  const link = element("a", "");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  at("save").open = false;
}

function asText() {
  const answers = ({ answers: [first, ...others], columns }) =>
    others.length ? [first, ...others].map((text, i) => `${columns[i].name}: ${text}`) : [first];
  return turns.map((turn) => [turn.question, ...answers(turn)].join("\n\n")).join("\n\n* * *\n\n") + "\n";
}

function asLine() { // a conversation for arianna_ft.py; of two models the first one's answers
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { read, answers } of turns.filter((turn) => turn.read[0] && turn.answers[0])) {
    messages.push({ role: "user", content: read[0] }, { role: "assistant", content: answers[0] });
  }
  return JSON.stringify(messages.map((message) => ({ ...message, content: plain(message.content) }))) + "\n";
}

// ---- the beginning ----

function listen() {
  const field = at("question"), today = new Date().toISOString().slice(0, 10);
  at("ask").onsubmit = (event) => {
    event.preventDefault();
    if (!field.value.trim() || waiting || at("send").disabled) return;
    ask(field.value);
    field.value = "";
    grow();
    field.focus();
  };
  field.oninput = grow;
  field.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    at("ask").requestSubmit();
  };
  document.onkeydown = (event) => {
    if (event.key === "Escape" && waiting) stop();
    if (event.key === "Escape") at("save").open = false;
  };
  at("stop").onclick = stop;
  at("start-over").onclick = startOver;
  at("open-about").onclick = () => at("about").showModal();
  at("save-text").onclick = () => save(`talk-${today}.txt`, asText());
  at("save-line").onclick = () => save(`talk-${today}.jsonl`, asLine());
  at("seed").oninput = () => (seedGiven = true);
  at("beside-field").hidden = data.models.length < 2;
  at("beside").onchange = () => document.body.classList.toggle("two", asked().length > 1);
  at("beside").onchange();
}

async function main() {
  at("send").disabled = true;
  listen();
  newSeed();
  try {
    await open();
  } catch (error) {
    const browsers = "A current Firefox, Chrome, Edge or Safari opens it.";
    at("opening").textContent = `The model could not be opened: ${error.message}. ${browsers}`;
    return;
  }
  at("opening").hidden = true;
  at("send").disabled = false;
  for (const question of data.questions) {
    const item = element("li", ""), button = element("button", "", question);
    button.type = "button";
    button.onclick = () => (ask(question), at("question").focus());
    item.append(button);
    at("first").append(item);
  }
  at("first").hidden = false;
  at("question").focus();
}

main();
