// Builds elements. Data goes in as text or as attribute values, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element. Attributes that are null or false are left out; a function `onclick` becomes a listener. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets the text of an element only if it changes, so that screen readers do not repeat it. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A table with a heading row and rows of cells; a cell is a text, a number or an element. `#` marks columns of numbers. */
export function table(label, headings, rows, attributes = {}) {
  const kinds = headings.map((heading) => (heading.startsWith("#") ? "number" : null));
  const head = make("tr", {}, headings.map((heading, at) => make("th", { scope: "col", class: kinds[at] }, heading.replace("#", ""))));
  const body = rows.map((cells) => make("tr", {}, cells.map((cell, at) => make("td", { class: kinds[at] }, cell ?? "–"))));
  const content = make("table", attributes, make("thead", {}, head), make("tbody", {}, body));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${label}, table` }, content);
}

/** A message at the top of the page; without a text it goes away. `#notice` is an alert, so it is read out. */
export function notice(text, kind = "alarm") {
  const place = byId("notice");
  if (!text) place.replaceChildren();
  else if (place.textContent !== text) place.replaceChildren(make("p", { class: kind }, text));
}

/** Asks a question in a dialog; resolves to whether the answer was yes. */
export function confirmed(question, explanation, yes) {
  return new Promise((resolve) => {
    const close = (answer) => () => dialog.close(answer);
    const dialog = make(
      "dialog",
      { class: "question", "aria-labelledby": "question" },
      make("h2", { id: "question" }, question),
      make("p", {}, explanation),
      make(
        "div",
        { class: "pair" },
        make("button", { type: "button", class: "main", onclick: close("yes") }, yes),
        make("button", { type: "button", onclick: close("no"), autofocus: true }, "Cancel"),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
