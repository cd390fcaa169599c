// The widget that asks: everything foreign goes in as text, never as markup.
const LATE = 6000;

function element(tag, style, text) {
  const made = document.createElement(tag);
  made.style.cssText = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

const EDGE = "var(--jp-border-color1, #bdbdbd)";
const BOX = `border:1px solid ${EDGE};border-radius:4px;background:transparent;color:inherit;font:inherit;padding:3px 6px;`;
const MONO = "font-family:var(--jp-code-font-family, monospace);font-size:12px;";
const COLOURS = { good: "#188b52", bad: "#d4484f", plain: "#7f7f7f" };

function labelled(name, field) {
  const label = element("label", "display:block;margin:6px 0;");
  label.append(element("div", "opacity:.75;font-size:11px;", name), field);
  return label;
}

function area(text, rows) {
  const field = element("textarea", `${BOX}${MONO}width:100%;box-sizing:border-box;resize:vertical;`);
  field.rows = rows;
  field.spellcheck = false;
  field.value = text;
  return field;
}

function block(text) {
  const shown = element("pre", `${MONO}margin:2px 0;white-space:pre-wrap;overflow-wrap:anywhere;max-height:260px;overflow:auto;`, text);
  shown.style.unicodeBidi = "plaintext";
  return shown;
}

function folded(name, text) {
  const details = element("details", "margin:4px 0;");
  details.open = text.length < 400;
  details.append(element("summary", "cursor:pointer;opacity:.75;font-size:11px;", name), block(text));
  return details;
}

class Card {
  constructor(model, card) {
    this.model = model;
    this.card = card;
    this.buttons = [];
    this.box = element("section", `border:1px solid ${EDGE};border-left:4px solid #b06805;border-radius:4px;padding:8px 12px;margin:4px 0;font-size:13px;line-height:1.45;`);
    this.box.dataset.question = card.id;
    this.box.setAttribute("aria-label", card.title);
    const head = element("div", "font-weight:600;", card.title);
    head.style.unicodeBidi = "plaintext";
    this.box.append(head);
    if (card.text) this.box.append(block(card.text));
    if (card.reason) this.box.append(folded("why the agent wants it", card.reason));
    if (card.before) this.box.append(folded("what ran before", card.before));
    this.body = element("div", "");
    this.actions = element("div", "display:flex;flex-wrap:wrap;gap:6px;align-items:center;margin-top:6px;");
    this.told = element("div", "margin-top:4px;white-space:pre-wrap;overflow-wrap:anywhere;");
    this.told.setAttribute("role", "status");
    this.box.append(this.body, this.actions, this.told);
    this[card.kind]();
  }

  button(name, colour, make) {
    const made = element("button", `${BOX}cursor:pointer;border-color:${COLOURS[colour]};`, name);
    made.type = "button";
    made.onclick = () => {
      try {
        this.send(make());
      } catch (problem) {
        this.say(problem.message, "bad");
      }
    };
    this.buttons.push(made);
    this.actions.append(made);
    return made;
  }

  line(placeholder, wide) {
    const field = element("input", `${BOX}${wide ? "flex:1;min-width:180px;" : ""}`);
    field.placeholder = placeholder;
    field.setAttribute("aria-label", placeholder);
    return field;
  }

  json(field, what) {
    try {
      return JSON.parse(field.value);
    } catch (problem) {
      throw new Error(`${what}: not JSON (${problem.message})`);
    }
  }

  arguments() {
    const { card } = this;
    if (card.editable) {
      this.edited = area(card.arguments, Math.min(14, card.arguments.split("\n").length + 1));
      this.body.append(labelled("arguments (change them here)", this.edited));
    } else {
      this.body.append(element("div", "opacity:.75;font-size:11px;", "arguments"), block(card.arguments));
    }
  }

  approve() {
    this.arguments();
    const why = this.line("why not (the agent is told)", true);
    this.button("Approve", "good", () => {
      if (this.edited && this.edited.value !== this.card.arguments) {
        throw new Error("the arguments were changed: choose Approve with changes, or put them back");
      }
      return { verdict: "approve", always: Boolean(this.always && this.always.checked) };
    });
    if (this.edited) {
      this.button("Approve with changes", "good", () => ({ verdict: "edit", arguments: this.json(this.edited, "arguments") }));
    }
    this.button("Deny", "bad", () => ({ verdict: "deny", reason: why.value }));
    this.actions.append(why);
    if (this.card.lasting) {
      const label = element("label", "display:flex;gap:4px;align-items:center;");
      this.always = element("input", "");
      this.always.type = "checkbox";
      label.append(this.always, element("span", "", "Always in this session, for exactly these arguments"));
      this.actions.append(label);
    }
  }

  ask() {
    const { card } = this;
    if (card.form === "yes_no") {
      this.button("Yes", "good", () => ({ verdict: "answer", answer: true }));
      this.button("No", "bad", () => ({ verdict: "answer", answer: false }));
    } else if (card.form === "choice") {
      // What is shown of a choice may be less than it is: its number is sent.
      card.choices.forEach((choice, at) => this.button(choice, "plain", () => ({ verdict: "answer", choice: at })));
    } else {
      const field = card.form === "number" ? this.line("a number", true) : area("", 2);
      if (card.form === "number") {
        field.inputMode = "decimal";
        field.removeAttribute("aria-label");
      }
      this.body.append(labelled("your answer", field));
      this.button("Answer", "good", () => ({ verdict: "answer", answer: field.value }));
    }
    this.button("Stop the run", "plain", () => ({ verdict: "stop" }));
  }

  doubt() {
    this.button("Run it again", "plain", () => ({ verdict: "redo" }));
    const field = area("", 2);
    field.placeholder = "the result, as JSON";
    this.body.append(labelled("if it happened: what it gave", field));
    this.button("It happened, this is the result", "good", () => ({ verdict: "result", answer: this.json(field, "result") }));
    this.button("Stop", "bad", () => ({ verdict: "stop" }));
  }

  bailout() {
    const field = area("", 3);
    this.body.append(labelled("an answer in its place, or a hint to go on with", field));
    this.button("Go on with this hint", "good", () => ({ verdict: "hint", reason: field.value }));
    this.button("This is the answer", "plain", () => ({ verdict: "answer", answer: this.card.form === "text" ? field.value : this.json(field, "answer") }));
    if (this.card.raisable) this.button("Raise the limit", "plain", () => ({ verdict: "raise" }));
    this.button("Stop", "bad", () => ({ verdict: "stop" }));
  }

  budget() {
    const field = this.line("raise it to", false);
    field.value = this.card.default;
    this.button("Raise to", "good", () => ({ verdict: "raise", answer: field.value }));
    this.actions.append(field);
    if (this.card.choices.includes("finish")) this.button("Finish with what there is", "plain", () => ({ verdict: "finish" }));
    this.button("Stop", "bad", () => ({ verdict: "stop" }));
  }

  circuit() {
    this.button("Continue once", "plain", () => ({ verdict: "once" }));
    this.button("Raise the threshold", "plain", () => ({ verdict: "raise" }));
    const hint = this.line("what the agent should do instead", true);
    this.button("Steer", "good", () => ({ verdict: "hint", reason: hint.value }));
    this.button("Stop", "bad", () => ({ verdict: "stop" }));
    this.actions.append(hint);
  }

  say(text, colour) {
    this.told.textContent = text;
    this.told.style.color = COLOURS[colour];
  }

  able(yes) {
    for (const each of this.buttons) each.disabled = !yes;
  }

  send(decision) {
    this.able(false);
    this.say("sending…", "plain");
    this.waiting = setTimeout(() => {
      this.able(true);
      this.say("The kernel does not answer. If it was restarted, run the cell again and decide there; if it is busy, this decision arrives when it is free.", "bad");
    }, LATE);
    const gone = () => {
      clearTimeout(this.waiting);
      this.able(true);
      this.say("The kernel that asked is gone: run the cell again and decide there.", "bad");
    };
    try {
      const sent = this.model.send({ type: "decide", id: this.card.id, ...decision });
      if (sent && sent.catch) sent.catch(gone);
    } catch (problem) {
      gone();
    }
  }

  heard(message) {
    clearTimeout(this.waiting);
    if (message.type === "refused") {
      this.able(true);
      this.say(message.text, "bad");
    } else {
      this.able(false);
      this.say(message.text, "good");
      this.box.style.borderLeftColor = COLOURS.good;
    }
  }
}

function render({ model, el }) {
  const cards = new Map();
  // What the panel tells those who have no buttons is not for who sees these; gone with them, it is seen again.
  const shown = model.get("cards").map((card) => `.agentkit-without-buttons-step-${CSS.escape(card.id)}{display:none}`);
  el.append(element("style", "", shown.join("")));
  for (const card of model.get("cards")) {
    const made = new Card(model, card);
    cards.set(card.id, made);
    el.append(made.box);
  }
  const settled = () => {
    for (const [id, text] of Object.entries(model.get("settled"))) {
      if (cards.has(id)) cards.get(id).heard({ type: "decided", text });
    }
  };
  const heard = (message) => {
    if (cards.has(message.id)) cards.get(message.id).heard(message);
  };
  settled();
  model.on("change:settled", settled);
  // A page of Voila has run no cell after this one: loaded again it replays to here and goes on.
  model.on("change:again", () => setTimeout(() => window.location.reload(), 300));
  model.on("msg:custom", heard);
  try {
    model.send({ type: "ready" });
  } catch (problem) {
    // Nobody listens any more: a click will say so.
  }
  return () => {
    model.off("change:settled", settled);
    model.off("msg:custom", heard);
  };
}

export default { render };
