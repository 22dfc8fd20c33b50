// Numbers and times as the pages show them. Times are local, in the order year, month, day, so that they sort.

const pad = (number) => String(number).padStart(2, "0");

export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export const pValue = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));

export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);

export const day = (date) => `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;

export const clock = (date) => `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;

/** A time of today without the date, another one with it. */
export function when(text) {
  if (!text) return "–";
  const date = new Date(text);
  return day(date) === day(new Date()) ? clock(date) : `${day(date)} ${clock(date)}`;
}

/** How long ago a time was, in the largest unit. */
export function ago(text) {
  const seconds = Math.max(0, (Date.now() - new Date(text).getTime()) / 1000);
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  }
  return seconds < 5 ? "just now" : `${Math.floor(seconds)} seconds ago`;
}

/** The value of an `<input type="datetime-local">` for a time, and back to ISO 8601 in UTC. */
export const toLocalInput = (date) => `${day(date)}T${pad(date.getHours())}:${pad(date.getMinutes())}`;

export const fromLocalInput = (value) => (value ? new Date(value).toISOString() : "");

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** What a person calls a part. */
export const nameOf = (part) => part.serial || part.image_name;
