// Whether the station can inspect.

const PATIENCE = 8000;

/** The problems of the station, one sentence each. Rejects if the station does not answer at all. */
export async function problemsOf() {
  const response = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const health = await response.json();
  return health.ready ? [] : health.problems;
}

/** The problems that matter on a line: its own and those of the whole station. */
export const problemsFor = (line, problems) =>
  problems
    .filter((text) => !text.startsWith("line ") || text.startsWith(`line ${line}: `))
    .map((text) => text.replace(`line ${line}: `, ""));

/** Looks every few seconds and calls `seen` with the problems, or with null if the station is not reachable. */
export function watchHealth(every, seen) {
  const look = async () => {
    try {
      seen(await problemsOf());
    } catch {
      seen(null);
    }
    setTimeout(look, every);
  };
  setTimeout(look, every);
}
