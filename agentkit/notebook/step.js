// The buttons of a paused run: everything foreign goes in as text, never as markup.
const LATE = 6000;
const EDGE = "var(--jp-border-color1, #bdbdbd)";
const BOX = `border:1px solid ${EDGE};border-radius:4px;background:transparent;color:inherit;font:inherit;padding:3px 8px;`;

function element(tag, style, text) {
  const made = document.createElement(tag);
  made.style.cssText = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

function render({ model, el }) {
  const box = element("section", "display:flex;flex-wrap:wrap;gap:6px;align-items:center;font-size:13px;padding:2px 0;");
  const told = element("span", "opacity:.75;white-space:pre-wrap;overflow-wrap:anywhere;");
  told.setAttribute("role", "status");
  el.append(box);
  let buttons = [];
  let waiting = null;

  const able = (yes) => {
    for (const each of buttons) each.disabled = !yes;
  };

  const send = (move) => {
    able(false);
    told.textContent = "taking it…";
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      able(true);
      told.textContent = "The kernel does not answer. If it was restarted, run the cells again; if it is busy, this arrives when it is free.";
    }, LATE);
    const gone = () => {
      clearTimeout(waiting);
      able(true);
      told.textContent = "The kernel of this run is gone: run the cells again, they come back to this pause.";
    };
    try {
      const sent = model.send({ type: "move", at: model.get("card").at, ...move });
      if (sent && sent.catch) sent.catch(gone);
    } catch (problem) {
      gone();
    }
  };

  const button = (name, title, make) => {
    const made = element("button", `${BOX}cursor:pointer;`, name);
    made.type = "button";
    made.title = title;
    made.onclick = () => send(make());
    buttons.push(made);
    return made;
  };

  const editing = (card) => {
    const details = element("details", "flex-basis:100%;");
    details.append(element("summary", "cursor:pointer;opacity:.75;", "Edit this step"));
    const what = element("select", BOX);
    for (const [name, text] of Object.entries(card.edits)) {
      const option = element("option", "", name);
      option.value = name;
      option.dataset.text = text;
      what.append(option);
    }
    const field = element("textarea", `${BOX}font-family:var(--jp-code-font-family, monospace);font-size:12px;width:100%;box-sizing:border-box;resize:vertical;`);
    field.spellcheck = false;
    field.setAttribute("aria-label", "what stands in the place of this step");
    const fill = () => {
      field.value = card.edits[what.value];
      field.rows = Math.min(14, field.value.split("\n").length + 1);
    };
    what.onchange = fill;
    fill();
    details.append(what, field, button("Put it there", "a branch begins; the old one stays", () => ({ verb: "edit", what: what.value, text: field.value })));
    return details;
  };

  const going = (places) => {
    const group = element("span", "display:inline-flex;gap:4px;align-items:center;");
    const where = element("select", BOX);
    where.setAttribute("aria-label", "a recorded step");
    for (const place of places) where.append(element("option", "", place));
    group.append(button("Go to", "pause before that step; costs nothing", () => ({ verb: "goto", to: where.value })), where);
    return group;
  };

  const draw = () => {
    clearTimeout(waiting);
    const card = model.get("card");
    buttons = [];
    box.replaceChildren();
    box.dataset.step = card.at;
    // What is told those who have no buttons is not for who sees these; gone with them, it is seen again.
    box.append(element("style", "", `.agentkit-without-buttons-run-${CSS.escape(card.run)}{display:none}`));
    for (const [name, title, move] of card.moves) box.append(button(name, title, () => move));
    if (card.places && card.places.length) box.append(going(card.places));
    box.append(told);
    if (card.note) box.append(element("span", "flex-basis:100%;opacity:.75;", card.note));
    if (Object.keys(card.edits).length) box.append(editing(card));
    told.textContent = "";
  };
  const heard = (message) => {
    clearTimeout(waiting);
    if (message.type === "taken") return;
    able(true);
    told.textContent = message.text;
  };
  draw();
  model.on("change:card", draw);
  model.on("msg:custom", heard);
  try {
    model.send({ type: "ready" });
  } catch (problem) {
    // Nobody listens any more: a click will say so.
  }
  return () => {
    model.off("change:card", draw);
    model.off("msg:custom", heard);
  };
}

export default { render };
