// Logs in, or creates the user of a one-time link; then goes to where one wanted to be.

import { postWithoutLogin } from "./api.js";
import { byId, notice } from "./dom.js";

const form = byId("form");
const first = location.pathname === "/first";
const secret = location.hash.slice(1); // of the one-time link; browsers send it to no server

/** The page that was asked for, if it is one of this station. */
function target() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  try {
    const address = new URL(next, location.origin);
    if (address.origin === location.origin && address.pathname !== "/login") return address.pathname + address.search + address.hash;
  } catch {
    // not an address
  }
  return "/";
}

async function send() {
  const { name, password, again } = form.elements;
  const credentials = { name: name.value, password: password.value };
  if (!first) {
    await postWithoutLogin("/api/login", credentials);
    location.replace(target());
    return;
  }
  if (password.value !== again.value) throw new Error("The two passwords differ. Type the same password twice.");
  await postWithoutLogin("/api/first", { ...credentials, secret });
  history.replaceState(null, "", location.pathname); // the secret stays in no history
  location.replace("/");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  notice("");
  try {
    await send();
  } catch (problem) {
    notice(problem.message);
    form.elements.password.focus();
  } finally {
    button.disabled = false;
  }
});

if (first && !secret) notice("This address has no link in it. Open the whole link that the station printed.");
