// The model versions of a line: list, upload, activation, rollback.

import { get, linePath, post, sentence, upload } from "./api.js";
import { confirmed, make, table } from "./dom.js";
import { when } from "./format.js";

/** Fills the section. `act(action, done)` runs an action, shows what fails, and says what was done. */
export async function showModels(place, line, act) {
  const models = await get(linePath(line, "/models"));
  place.replaceChildren(
    make("h2", { id: "versions-heading" }, "Model versions"),
    models.length ? list(models, line, act) : make("p", { class: "empty panel" }, "No model yet. Upload the file that “offnominal fit” wrote."),
    models.length > 1 && models.some((model) => model.active) ? rollback(line, act) : "",
    uploadForm(line, act),
  );
}

function list(models, line, act) {
  const rows = models.map((model) => [
    make("b", {}, String(model.number)),
    model.active ? make("span", { class: "tag ok" }, "active") : activation(model, line, act),
    model.threshold.toFixed(2),
    make("span", { class: "wrap" }, sentence(model.promise)),
    String(model.images),
    make("span", { class: "wrap" }, model.comment || (model.source === "update" ? "update" : "upload")),
    `${when(model.added_at)}, ${model.added_by}`,
    make("a", { href: linePath(line, `/models/${model.digest}`), title: model.digest }, model.digest.slice(0, 12)),
  ]);
  const headings = ["version", "state", "#threshold", "promise", "#images", "origin", "added", "file"];
  const content = table("Model versions", headings, rows, { class: "settings" });
  content.classList.add("panel");
  return content;
}

function activation(model, line, act) {
  const activate = async () => {
    const question = `Activate version ${model.number} on ${line}?`;
    if (!(await confirmed(question, `It judges every part from the next image on. ${sentence(model.promise)}`, "Activate"))) return;
    await act(() => post(linePath(line, `/models/${model.digest}/activate`)), `Version ${model.number} is active.`);
  };
  return make("button", { type: "button", onclick: activate, "aria-label": `Activate version ${model.number}` }, "Activate");
}

function rollback(line, act) {
  const back = async () => {
    const explanation = "The version that was active before judges every part from the next image on.";
    if (!(await confirmed(`Roll back the model of ${line}?`, explanation, "Roll back"))) return;
    await act(() => post(linePath(line, "/rollback")), (model) => `Version ${model.number} is active again.`);
  };
  return make("p", { class: "choose" }, make("button", { type: "button", id: "rollback", class: "danger", onclick: back }, "Roll back to the version before"));
}

function uploadForm(line, act) {
  const button = make("button", {}, "Upload");
  const form = make(
    "form",
    { class: "add panel", id: "upload", "aria-label": "Upload a model version" },
    make("label", { class: "field" }, "Model file", make("input", { type: "file", name: "model", accept: ".safetensors", required: true })),
    make("label", { class: "field" }, "Comment", make("input", { name: "comment", maxlength: 2000, autocomplete: "off" })),
    button,
    make("span", { class: "soft" }, "It is checked and added, not activated."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await act(() => upload(linePath(line, "/models"), new FormData(form)), (model) => `Version ${model.number} was added.`);
    button.disabled = false;
  });
  return form;
}
