// Users, machine tokens and lines.

import { allows, get, patch, post, remove, ROLES } from "./api.js";
import { byId, confirmed, make, notice, table } from "./dom.js";
import { when } from "./format.js";
import { begin, run } from "./nav.js";

const SHORTEST = 10;
let user;

/** Runs an action, then shows the page anew; what fails is shown instead. */
async function act(action, done) {
  notice("");
  try {
    await action();
    await load();
    notice(done, "done");
  } catch (problem) {
    notice(problem.message);
  }
}

const roleField = (attributes, chosen) =>
  make("select", attributes, ROLES.map((role) => make("option", { value: role, selected: role === chosen }, role)));

/** A form that adds something; `add(fields)` gets the fields by name. */
function addForm(label, fields, button, add) {
  const form = make("form", { class: "add panel", "aria-label": label }, fields, make("button", { class: "main" }, button));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    add(Object.fromEntries(new FormData(form)));
  });
  return form;
}

const field = (label, attributes) => make("label", { class: "field" }, label, make("input", { required: true, autocomplete: "off", ...attributes }));

function section(id, title, lead, ...content) {
  byId(id).replaceChildren(make("h2", { id: `${id}-heading` }, title), make("p", { class: "lead" }, lead), ...content);
}

function listed(label, headings, rows) {
  const content = table(label, headings, rows, { class: "settings" });
  content.classList.add("panel");
  return content;
}

// ---- users ----------------------------------------------------------------------------------------------------------
function showUsers(users) {
  const rows = users.map((one) => {
    const path = `/api/users/${encodeURIComponent(one.name)}`;
    const role = roleField({ "aria-label": `Role of ${one.name}` }, one.role);
    role.addEventListener("change", () => act(() => patch(path, { role: role.value }), `${one.name} is ${role.value} now and must log in again.`));
    const toggle = () => act(() => patch(path, { disabled: !one.disabled }), `${one.name} is ${one.disabled ? "enabled" : "disabled"}.`);
    const self = one.name === user.name;
    return [
      make("b", {}, one.name),
      role,
      one.disabled ? make("span", { class: "tag bad" }, "disabled") : make("span", { class: "tag ok" }, "active"),
      when(one.created_at),
      make(
        "span",
        { class: "actions" },
        make("button", { type: "button", onclick: () => setPassword(one.name, path), "aria-label": `Set password of ${one.name}` }, "Set password"),
        make("button", { type: "button", onclick: toggle, disabled: self, "aria-label": `${one.disabled ? "Enable" : "Disable"} ${one.name}` }, one.disabled ? "Enable" : "Disable"),
      ),
    ];
  });
  section(
    "users",
    "Users",
    "Each role may do what the roles before it may: viewers look, operators review, engineers change models, admins change users.",
    listed("Users", ["name", "role", "state", "created", "actions"], rows),
    addForm(
      "Add a user",
      [
        field("Name", { name: "name", maxlength: 64 }),
        make("label", { class: "field" }, "Role", roleField({ name: "role" }, "operator")),
        field("Password", { name: "password", type: "password", minlength: SHORTEST, maxlength: 200, autocomplete: "new-password" }),
      ],
      "Add the user",
      (given) => act(() => post("/api/users", given), `User ${given.name} was added.`),
    ),
  );
}

/** Asks for a new password in a dialog. */
function setPassword(name, path) {
  const input = make("input", { type: "password", name: "password", required: true, minlength: SHORTEST, maxlength: 200, autocomplete: "new-password", autofocus: true });
  const form = make(
    "form",
    {},
    make("h2", { id: "question" }, `New password of ${name}`),
    make("p", {}, `At least ${SHORTEST} characters. ${name} must log in again.`),
    make("label", { class: "field" }, "Password", input),
    make("p", { class: "pair" }, make("button", { class: "main" }, "Set the password"), make("button", { type: "button", onclick: () => dialog.close() }, "Cancel")),
  );
  const dialog = make("dialog", { class: "question", "aria-labelledby": "question" }, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    act(() => patch(path, { password: input.value }), `The password of ${name} was changed.`);
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// ---- tokens ---------------------------------------------------------------------------------------------------------
function showTokens(tokens, created = null) {
  const rows = tokens.map((token) => [
    make("b", {}, token.name),
    token.role,
    token.revoked_at ? make("span", { class: "tag bad" }, `revoked ${when(token.revoked_at)}`) : make("span", { class: "tag ok" }, "valid"),
    when(token.created_at),
    token.revoked_at ? "" : make("button", { type: "button", class: "danger", onclick: () => revoke(token.name), "aria-label": `Revoke ${token.name}` }, "Revoke"),
  ]);
  section(
    "tokens",
    "Machine tokens",
    "A camera or a program sends its token with every request: Authorization: Bearer TOKEN.",
    created ? secret(created) : "",
    listed("Machine tokens", ["name", "role", "state", "created", "actions"], rows),
    addForm(
      "Create a token",
      [field("Name", { name: "name", maxlength: 64 }), make("label", { class: "field" }, "Role", roleField({ name: "role" }, "operator"))],
      "Create the token",
      createToken,
    ),
  );
}

async function createToken(given) {
  notice("");
  try {
    const created = await post("/api/tokens", given);
    showTokens(await get("/api/tokens"), created);
    byId("secret").focus();
  } catch (problem) {
    notice(problem.message);
  }
}

/** A new token; nobody can see it again. */
function secret({ name, token }) {
  const copy = make("button", { type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(token);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("secret")); // browsers copy by script over HTTPS only
    }
  } }, "Copy");
  return make(
    "div",
    { class: "done", role: "status" },
    make("p", {}, `Token ${name}. It is shown only now; copy it.`),
    make("p", { class: "secret", id: "secret", tabindex: "-1" }, token),
    copy,
  );
}

async function revoke(name) {
  const explanation = "Whatever uses it cannot reach the station any more. This cannot be undone.";
  if (await confirmed(`Revoke the token ${name}?`, explanation, "Revoke"))
    await act(() => remove(`/api/tokens/${encodeURIComponent(name)}`), `Token ${name} was revoked.`);
}

// ---- lines ----------------------------------------------------------------------------------------------------------
function showLines(lines) {
  const rows = lines.map((line) => [
    make("a", { href: `/line/${encodeURIComponent(line.name)}` }, line.name),
    line.model ? `version ${line.model.number}` : make("a", { href: `/teach?line=${encodeURIComponent(line.name)}` }, "upload a model"),
    line.sources.join(", ") || "HTTP",
    when(line.created_at),
  ]);
  section(
    "lines",
    "Lines",
    "A line has one active model. Folders that it watches are set in config.toml.",
    lines.length ? listed("Lines", ["name", "model", "sources", "created"], rows) : make("p", { class: "empty panel" }, "No line yet."),
    addForm("Create a line", [field("Name", { name: "name", maxlength: 64 })], "Create the line", (given) =>
      act(() => post("/api/lines", given), `Line ${given.name} was created. Upload its model on the page Teach.`),
    ),
  );
}

async function load() {
  const [users, tokens, lines] = await Promise.all([get("/api/users"), get("/api/tokens"), get("/api/lines")]);
  showUsers(users);
  showTokens(tokens);
  showLines(lines);
}

await run(async () => {
  user = await begin();
  if (allows(user, "admin")) await load();
  else notice(`You are ${user.role}; this page needs the role admin.`);
});
