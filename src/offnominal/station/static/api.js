// Requests to the station. Errors are `Problem`s whose message can be shown.

export const ROLES = ["viewer", "operator", "engineer", "admin"];
export const UNREACHABLE = "The station is not reachable. Check the network, and that the station runs.";
const PATIENCE = 20_000;

export class Problem extends Error {
  /** `status` is that of HTTP, 0 if there was no answer. */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let identity = null;

/** Who is logged in: `{name, role, csrf}`. */
export function me() {
  identity ??= get("/api/me").catch((problem) => {
    identity = null;
    throw problem;
  });
  return identity;
}

export const allows = (user, role) => ROLES.indexOf(user.role) >= ROLES.indexOf(role);

export const get = (path) => send("GET", path, null, { signal: AbortSignal.timeout(PATIENCE) });
export const post = (path, content = {}) => change("POST", path, content);
export const patch = (path, content) => change("PATCH", path, content);
export const remove = (path) => change("DELETE", path, null);
/** Sends a form with files. */
export const upload = (path, form) => change("POST", path, form);
/** A change before anybody is logged in. */
export const postWithoutLogin = (path, content) => send("POST", path, content, { public: true });

/** The query of an address, without what is empty. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const linePath = (line, rest = "") => `/api/lines/${encodeURIComponent(line)}${rest}`;

export function goToLogin() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search + location.hash)}`);
}

async function change(method, path, content) {
  const { csrf } = await me();
  try {
    return await send(method, path, content, { csrf });
  } catch (problem) {
    if (problem.status !== 403) throw problem;
    identity = null; // a login in another tab has changed the token
    const renewed = await me();
    if (renewed.csrf === csrf) throw problem;
    return send(method, path, content, { csrf: renewed.csrf });
  }
}

async function send(method, path, content, options) {
  const headers = { Accept: "application/json" };
  if (options.csrf) headers["X-CSRF-Token"] = options.csrf;
  const form = content instanceof FormData;
  if (content !== null && !form) headers["Content-Type"] = "application/json";
  const body = content === null || form ? content : JSON.stringify(content);
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal: options.signal, cache: "no-store" });
  } catch {
    throw new Problem(0, UNREACHABLE);
  }
  if (response.status === 401 && !options.public) {
    goToLogin();
    return new Promise(() => {}); // the page is left
  }
  if (!response.ok) throw new Problem(response.status, await detail(response));
  return response.status === 204 ? null : response.json();
}

async function detail(response) {
  try {
    return sentence((await response.json()).detail);
  } catch {
    return `The station answered ${response.status}.`;
  }
}

/** A message of the station as a sentence. */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
