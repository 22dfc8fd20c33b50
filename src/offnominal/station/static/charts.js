// Draws charts in SVG with the classes of page.css. A chart is one picture with a name; a table beside it has its figures.

import { draw } from "./dom.js";
import { clock, day, percent, score } from "./format.js";

const EDGE = { left: 56, right: 14, top: 34, bottom: 46 };
const HOUR = 3600_000;
const CHARACTER = 6.2; // width of a character of a chart, in its units

/** Round values from `low` to `high`, about `wanted` of them. */
export function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) values.push(Number(value.toPrecision(12)));
  return values;
}

/** The empty chart: axes, grid, names, legend. Gives the scales and the element. */
function frame({ width, height, label, x, y, legend }) {
  const inner = { left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: height - EDGE.bottom };
  const across = (value) => inner.left + ((value - x.low) / (x.high - x.low || 1)) * (inner.right - inner.left);
  const up = (value) => inner.bottom - ((value - y.low) / (y.high - y.low || 1)) * (inner.bottom - inner.top);
  const chart = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of y.ticks) {
    chart.append(draw("line", { class: "grid", x1: inner.left, x2: inner.right, y1: up(value), y2: up(value) }));
    chart.append(draw("text", { x: inner.left - 8, y: up(value) + 4, "text-anchor": "end" }, y.text(value)));
  }
  for (const { at, text } of x.ticks) {
    const last = across(at) > inner.right - 30;
    chart.append(draw("line", { class: "axis", x1: across(at), x2: across(at), y1: inner.bottom, y2: inner.bottom + 4 }));
    chart.append(draw("text", { x: across(at), y: inner.bottom + 18, "text-anchor": last ? "end" : "middle" }, text));
  }
  chart.append(draw("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }));
  chart.append(draw("text", { class: "name", x: (inner.left + inner.right) / 2, y: height - 8, "text-anchor": "middle" }, x.name));
  let right = inner.right;
  for (const [text, mark] of [...legend].reverse()) {
    right -= text.length * CHARACTER;
    chart.append(draw("text", { x: right, y: 16 }, text));
    chart.append(mark(right - 24, 12));
    right -= 44;
  }
  return { chart, across, up, inner };
}

const stroke = (kind) => (x, y) => draw("path", { class: kind, d: `M${x} ${y}h18` });
const area = (kind) => (x, y) => draw("rect", { class: kind, x, y: y - 5, width: 18, height: 10 });
const circle = (kind) => (x, y) => draw("circle", { class: `dot ${kind}`, cx: x + 9, cy: y, r: 4 });
const diamond = (kind) => (x, y) => draw("path", { class: `dot ${kind}`, d: `M${x + 9} ${y - 6}l6 6l-6 6l-6 -6z` });

/** A mark with a tooltip, which opens an address. */
function marked(shape, text, open) {
  shape.append(draw("title", {}, text));
  if (open) shape.addEventListener("click", open);
  return shape;
}

/** At most `most` of the positions 0 … n-1, evenly spread. */
function chosen(n, most) {
  const step = Math.max(1, Math.ceil(n / most));
  return Array.from({ length: Math.ceil(n / step) }, (_, index) => index * step);
}

/** The name of a group: the hour in local time, or the lot. */
export function groupName(chart, group) {
  if (chart.by === "lot") return group.name;
  const date = new Date(group.name);
  return `${day(date)} ${clock(date).slice(0, 5)}`;
}

const short = (text) => (text.length > 12 ? `${text.slice(0, 11)}…` : text);

/** Share of NG per group with its control limits (a p-chart). `open(group)` is called for a click. */
export function controlChart(data, width, open) {
  const { groups, centre } = data;
  const most = Math.max(0.01, ...groups.map((group) => Math.max(group.share, group.upper)));
  const high = Math.min(1, most * 1.1);
  const out = groups.filter((group) => group.out).length;
  const names = groups.map((group) => groupName(data, group));
  const tick = (at) => ({ at, text: data.by === "lot" ? short(names[at]) : names[at].slice(5) });
  const { chart, across, up } = frame({
    width,
    height: 320,
    label: `Share of NG by ${data.by}, ${groups.length} groups, ${out} outside their control limits`,
    x: { low: -0.5, high: groups.length - 0.5, ticks: chosen(groups.length, Math.max(2, width / 110)).map(tick), name: data.by === "lot" ? "lot" : "hour" },
    y: { low: 0, high, ticks: ticks(0, high).filter((value) => value <= high), text: (value) => percent(value, high < 0.05 ? 1 : 0) },
    legend: [["limits", area("band good")], ["all parts", stroke("stroke line dashed")], ["group", circle("good")], ["outside", diamond("defect")]],
  });
  groups.forEach((group, index) => {
    const [left, right] = [across(index - 0.5), across(index + 0.5)];
    chart.append(draw("rect", { class: "band good", x: left, width: right - left, y: up(group.upper), height: up(group.lower) - up(group.upper) }));
  });
  chart.append(draw("path", { class: "stroke line dashed", d: `M${across(-0.5)} ${up(centre)}H${across(groups.length - 0.5)}` }));
  const follows = (index) => data.by === "lot" || new Date(groups[index].name) - new Date(groups[index - 1].name) <= HOUR;
  const path = groups.map((group, index) => `${index && follows(index) ? "L" : "M"}${across(index).toFixed(1)} ${up(group.share).toFixed(1)}`);
  chart.append(draw("path", { class: "stroke good", d: path.join("") }));
  groups.forEach((group, index) => {
    const shape = (group.out ? diamond("defect") : circle("good"))(across(index) - 9, up(group.share));
    const limits = `limits ${percent(group.lower)} to ${percent(group.upper)}`;
    chart.append(marked(shape, `${names[index]}: ${group.ng} of ${group.n} NG, ${percent(group.share)}, ${limits}`, () => open(group)));
  });
  return chart;
}

/** Scores in the order in which parts were judged, with the threshold that applied. */
export function scoreChart(scores, width, open) {
  const values = scores.flatMap((part) => [part.score, part.threshold]);
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values) * 1.05];
  const tick = (at) => ({ at, text: clock(new Date(scores[at].at)).slice(0, 5) });
  const flagged = scores.filter((part) => part.verdict === "ng").length;
  const { chart, across, up } = frame({
    width,
    height: 320,
    label: `Scores of the last ${scores.length} parts with the threshold; ${flagged} are above it`,
    x: { low: -0.5, high: scores.length - 0.5, ticks: chosen(scores.length, Math.max(2, width / 90)).map(tick), name: "time judged (one step per part)" },
    y: { low, high, ticks: ticks(low, high), text: String },
    legend: [["threshold", stroke("limit")], ["OK", circle("good")], ["NG", diamond("defect")]],
  });
  let limit = "";
  scores.forEach((part, index) => {
    if (part.threshold !== scores[index - 1]?.threshold) limit += `${index ? `H${across(index - 0.5).toFixed(1)}V` : `M${across(-0.5)} `}${up(part.threshold).toFixed(1)}`;
    const shape = (part.verdict === "ng" ? diamond("defect") : circle("good"))(across(index) - 9, up(part.score));
    if (scores.length > 200 && part.verdict !== "ng") shape.setAttribute("r", 2.5);
    const date = new Date(part.at);
    chart.append(marked(shape, `${score(part.score)}, threshold ${score(part.threshold)}, ${day(date)} ${clock(date)}`, () => open(part)));
  });
  if (scores.length) chart.append(draw("path", { class: "limit", d: `${limit}H${across(scores.length - 0.5)}` }));
  return chart;
}

/** The false-alarm rate as reviewed, with its interval, beside the stated one. */
export function rateChart(alarms, width) {
  const high = Math.min(1, Math.max(alarms.high, alarms.stated ?? 0, 0.01) * 1.15);
  const { chart, across, inner } = frame({
    width,
    height: 150,
    label: alarms.sentence,
    x: { low: 0, high, ticks: ticks(0, high, Math.max(2, width / 120)).map((at) => ({ at, text: percent(at, high < 0.05 ? 1 : 0) })), name: "share of good parts that were flagged" },
    y: { low: 0, high: 1, ticks: [], text: String },
    legend: [["95 % interval", area("box good")], ["as reviewed", diamond("line")], ["stated", stroke("limit")]],
  });
  const middle = (inner.top + inner.bottom) / 2;
  chart.append(draw("rect", { class: "box good", x: across(alarms.low), width: Math.max(1, across(alarms.high) - across(alarms.low)), y: middle - 14, height: 28 }));
  if (alarms.rate !== null) chart.append(diamond("line")(across(alarms.rate) - 9, middle));
  if (alarms.stated !== null) chart.append(draw("path", { class: "limit", d: `M${across(alarms.stated)} ${inner.top}V${inner.bottom}` }));
  return chart;
}
