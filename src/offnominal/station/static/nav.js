// The head of every page: where one is, who one is, and the way out.

import { allows, me, post, sentence } from "./api.js";
import { byId, make, notice } from "./dom.js";

const RETRY = 2000;

/** Fills the head; waits for the station if it cannot answer now. Resolves to the user. */
export async function begin() {
  const user = await patiently(me);
  for (const link of document.querySelectorAll("[data-role]")) link.hidden = !allows(user, link.dataset.role);
  byId("user").replaceChildren(make("b", {}, user.name), ` ${user.role}`);
  const out = byId("logout");
  out.hidden = false;
  out.addEventListener("click", async () => {
    try {
      await post("/api/logout");
      location.assign("/login");
    } catch (problem) {
      notice(problem.message);
    }
  });
  return user;
}

/** Repeats a request until it succeeds, as long as the station is away or busy; shows why it waits. */
export async function patiently(request) {
  for (;;) {
    try {
      const answer = await request();
      notice("");
      return answer;
    } catch (problem) {
      if (problem.status !== 0 && problem.status !== 429 && problem.status < 500) throw problem;
      notice(`${sentence(problem.message)} Trying again.`);
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

/** Runs the main function of a page; what it throws is shown. */
export async function run(main) {
  try {
    await main();
  } catch (problem) {
    notice(problem.message);
    if (!("status" in problem)) throw problem; // a fault of the page belongs in the console
  }
}
