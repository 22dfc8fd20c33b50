"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const images = data.images;
  const byId = (id) => document.getElementById(id);
  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
  const labelled = data.labelled;

  // ---- verdicts at a threshold --------------------------------------------------------------------------------
  let threshold = data.threshold;
  const isFlagged = (image) => image.score > threshold || image.not_found !== null;
  const verdict = (image) => {
    const flagged = isFlagged(image);
    if (!labelled) return flagged ? "flagged" : "passed";
    if (image.good) return flagged ? "false alarm" : "passed";
    return flagged ? "found" : "missed";
  };
  const alarming = new Set(["missed", "false alarm", "flagged"]);

  const cards = [...document.querySelectorAll(".card")].map((element) => ({
    element,
    image: images[Number(element.dataset.at)],
    at: Number(element.dataset.at),
    tag: element.querySelector(".tag"),
  }));

  function count() {
    const counts = { tp: 0, fp: 0, fn: 0, tn: 0, flagged: 0 };
    for (const image of images) {
      const flagged = isFlagged(image);
      if (flagged) counts.flagged++;
      if (labelled) counts[image.good ? (flagged ? "fp" : "tn") : flagged ? "tp" : "fn"]++;
    }
    return counts;
  }

  function showThreshold() {
    const counts = count();
    if (labelled) {
      for (const name of ["tp", "fp", "fn", "tn"]) byId(name).textContent = counts[name];
      byId("rate-detected").textContent = percent(counts.tp, counts.tp + counts.fn);
      byId("rate-false").textContent = percent(counts.fp, counts.fp + counts.tn);
      byId("rate-precision").textContent = percent(counts.tp, counts.tp + counts.fp);
      byId("rate-f1").textContent = percent(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn);
    } else {
      byId("flagged").textContent = counts.flagged;
      byId("passed").textContent = images.length - counts.flagged;
    }
    const above = data.calibration.filter((score) => score > threshold).length;
    byId("promise").textContent = percent(1 + above, data.calibration.length + 1);
    const exploring = threshold !== data.threshold;
    byId("exploring").hidden = !exploring;
    byId("exploring-value").textContent = threshold.toFixed(3);
    byId("slider").setAttribute("aria-valuetext", threshold.toFixed(3) + (exploring ? ", exploring" : ", calibrated"));
    moveCharts(counts);
    for (const card of cards) {
      const word = verdict(card.image);
      if (card.tag.textContent !== word) card.tag.textContent = word;
      card.tag.className = `tag ${alarming.has(word) ? "bad" : "ok"}`;
    }
    filter();
    if (viewer.open) showVerdict();
  }

  function moveCharts(counts) {
    const points = {
      scores: [threshold, null],
      classes: [threshold, null],
      roc: [counts.fp / (counts.fp + counts.tn), counts.tp / (counts.tp + counts.fn)],
      "precision-recall": counts.flagged ? [counts.tp / (counts.tp + counts.fn), counts.tp / counts.flagged] : [0, 1],
    };
    for (const chart of document.querySelectorAll("svg.chart")) {
      const mark = chart.querySelector(".follows");
      if (!mark || !points[chart.dataset.chart]) continue;
      const scaled = (value, low, high, start, end) => {
        const share = (value - Number(low)) / (Number(high) - Number(low));
        return Number(start) + Math.min(1, Math.max(0, share)) * (Number(end) - Number(start));
      };
      const d = chart.dataset;
      const [x, y] = points[d.chart];
      const across = scaled(x, d.x0, d.x1, d.left, d.right).toFixed(1);
      if (y === null) {
        mark.setAttribute("x1", across);
        mark.setAttribute("x2", across);
      } else {
        mark.setAttribute("cx", across);
        mark.setAttribute("cy", scaled(y, d.y0, d.y1, d.bottom, d.top).toFixed(1));
      }
    }
  }

  const scores = images.map((image) => image.score);
  const lowest = Math.min(...scores, data.threshold);
  const highest = Math.max(...scores, data.threshold);
  const margin = (highest - lowest) * 0.01 || 0.5;
  const [from, to] = [lowest - margin, highest + margin];
  const slider = byId("slider");
  const level = byId("level");
  const setThreshold = (value, source) => {
    threshold = value;
    if (source !== slider) slider.value = String(Math.round((1000 * (value - from)) / (to - from)));
    if (source !== level) level.value = value === data.threshold ? String(value) : value.toFixed(4);
    showThreshold();
  };
  slider.addEventListener("input", () => setThreshold(from + (Number(slider.value) / 1000) * (to - from), slider));
  level.addEventListener("input", () => level.value !== "" && setThreshold(Number(level.value), level));
  byId("back").addEventListener("click", () => {
    setThreshold(data.threshold, null);
    slider.focus();
  });

  // ---- filters and order --------------------------------------------------------------------------------------
  const filters = byId("filters");
  let shown = cards;

  const wrong = (image) => labelled && image.good === image.score > threshold;
  const orders = {
    first: (a, b) =>
      wrong(b.image) - wrong(a.image) ||
      (wrong(a.image)
        ? Math.abs(b.image.score - threshold) - Math.abs(a.image.score - threshold)
        : b.image.score - a.image.score),
    high: (a, b) => b.image.score - a.image.score,
    low: (a, b) => a.image.score - b.image.score,
    near: (a, b) => Math.abs(a.image.score - threshold) - Math.abs(b.image.score - threshold),
    name: (a, b) => a.image.name.localeCompare(b.image.name, undefined, { numeric: true }),
  };

  function filter() {
    const verdicts = new Set([...filters.querySelectorAll("[name=verdict]:checked")].map((box) => box.value));
    const label = byId("class") ? byId("class").value : "";
    const low = byId("low").value === "" ? -Infinity : Number(byId("low").value);
    const high = byId("high").value === "" ? Infinity : Number(byId("high").value);
    const text = byId("text").value.trim().toLowerCase();
    shown = cards.filter(
      ({ image }) =>
        verdicts.has(verdict(image)) &&
        (!label || image.label === label) &&
        image.score >= low &&
        image.score <= high &&
        (!text || image.name.toLowerCase().includes(text)),
    );
    shown.sort(orders[byId("sort").value]);
    const visible = new Set(shown);
    for (const card of cards) card.element.hidden = !visible.has(card);
    const current = [...byId("gallery").children].filter((element) => !element.hidden);
    if (shown.some((card, index) => current[index] !== card.element)) {
      byId("gallery").append(...shown.map((card) => card.element));
    }
    byId("shown").textContent = `${shown.length} of ${cards.length} images shown`;
    byId("empty").hidden = shown.length > 0;
  }
  for (const kind of ["input", "change"]) filters.addEventListener(kind, filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));

  // ---- one image ----------------------------------------------------------------------------------------------
  const viewer = byId("viewer");
  const full = byId("full");
  let current = null;
  let chosen = -1;
  let view = "heat";

  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  function open(card) {
    current = card;
    chosen = -1;
    const { image } = card;
    byId("viewer-name").textContent = image.name;
    const index = shown.indexOf(card);
    byId("place").textContent = index < 0 ? "" : `${index + 1} of ${shown.length}`;
    byId("previous").disabled = index <= 0;
    byId("next").disabled = index < 0 || index >= shown.length - 1;
    showView(view);
    showVerdict();
    showRegions(image);
    byId("receipts").replaceChildren();
    if (!viewer.open) viewer.showModal();
    document.querySelector(".body").scrollTop = 0;
    history.replaceState(null, "", `#image-${card.at}`);
  }

  function step(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next) open(next);
  }

  /* A report may lack a kind of picture; its button is hidden then. */
  function showView(name) {
    const { image } = current;
    for (const button of document.querySelectorAll("[data-view]")) button.hidden = !image.files[button.dataset.view];
    if (!image.files[name]) return name === "heat" ? undefined : showView("heat");
    view = name;
    const zoomed = image.zoom && image.zoom.folders[name];
    byId("deep").hidden = !zoomed;
    document.querySelector(".stage .fit").hidden = Boolean(zoomed);
    if (zoomed) showDeep(image, name);
    full.src = image.files[name];
    full.alt = `${{ image: "Picture", heat: "Heat map", influence: "Influence map" }[name]} of ${image.name}`;
    // Small pictures are enlarged at most four times.
    full.width = image.size[1];
    full.height = image.size[0];
    const scale = Math.min(4, Math.max(1, 720 / Math.max(...image.size)));
    full.style.width = `${Math.round(image.size[1] * scale)}px`;
    full.style.height = "auto";
    full.style.maxHeight = "none";
    const room = innerHeight - 150;
    if (image.size[0] * scale > room) full.style.width = `${Math.round((room * image.size[1]) / image.size[0])}px`;
    for (const button of document.querySelectorAll("[data-view]"))
      button.setAttribute("aria-pressed", String(button.dataset.view === name));
  }

  /* A large image: a viewer loads the tiles of its pyramid that are in sight. It keeps its place when the view changes. */
  let deep = null;
  let deepImage = null;
  function showDeep(image, name) {
    const place = deep && deepImage === image ? deep.viewport.getBounds() : null;
    if (deep) deep.destroy();
    deepImage = image;
    const { width, height, tile, low, high, folders } = image.zoom;
    deep = OpenSeadragon({
      element: byId("deep"),
      drawer: "canvas",
      crossOriginPolicy: false,
      showNavigationControl: false,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.4,
      maxZoomPixelRatio: 4,
      tileSources: {
        width, height, tileSize: tile, minLevel: low, maxLevel: high,
        getTileUrl: (level, x, y) => `${folders[name]}/${level}/${x}_${y}.jpg`,
      },
    });
    deep.addOnceHandler("open", () => {
      if (place) deep.viewport.fitBounds(place, true);
      image.regions.forEach(({ box: [left, top, right, bottom] }, number) => {
        const element = make("div", null, { class: number === chosen ? "box chosen" : "box" });
        deep.addOverlay({ element, location: deep.viewport.imageToViewportRectangle(left, top, right - left, bottom - top) });
      });
      if (chosen >= 0 && !place) zoomTo(image.regions[chosen]);
    });
  }

  function zoomTo({ box: [left, top, right, bottom] }) {
    const side = 4 * Math.max(right - left, bottom - top, 100);
    const [x, y] = [(left + right - side) / 2, (top + bottom - side) / 2];
    deep.viewport.fitBounds(deep.viewport.imageToViewportRectangle(x, y, side, side));
  }

  function showVerdict() {
    const { image } = current;
    const word = verdict(image);
    const tag = make("span", word, { class: `tag ${alarming.has(word) ? "bad" : "ok"}` });
    const rows = [["verdict", tag]];
    if (image.not_found) rows.push(["part", `not found: ${image.not_found}`]);
    if (image.label) rows.push(["class", image.label]);
    rows.push(["score", image.score.toFixed(3)], ["threshold", threshold.toFixed(3) + (threshold === data.threshold ? " (calibrated)" : " (exploring)")]);
    rows.push(["p-value", `${image.p_value.toFixed(4)}: ${percent(image.p_value, 1)} of the good calibration images score at least as high`]);
    if (image.whole_p_value !== null) rows.push(["image-level p-value", `${image.whole_p_value.toFixed(4)}: ${percent(image.whole_p_value, 1)} of the good reference images differ at least as much as a whole`]);
    for (const zone of image.zones) rows.push([`zone ${zone.name}`, `score ${zone.score.toFixed(3)}, p-value ${zone.p_value.toFixed(4)}`]);
    rows.push(["size", `${image.size[1]} × ${image.size[0]} pixels`]);
    byId("values").replaceChildren(
      ...rows.flatMap(([name, value]) => {
        const cell = make("dd", null);
        cell.append(value);
        return [make("dt", name), cell];
      }),
    );
  }

  function showRegions(image) {
    const boxes = byId("boxes");
    boxes.setAttribute("viewBox", `0 0 ${image.size[1]} ${image.size[0]}`);
    boxes.replaceChildren(
      ...image.regions.map(({ box: [left, top, right, bottom] }, number) => {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const values = { x: left, y: top, width: right - left, height: bottom - top, class: number === chosen ? "chosen" : "" };
        for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
        return rect;
      }),
    );
    byId("regions").replaceChildren(
      ...image.regions.map((region, number) => {
        const [left, top, right, bottom] = region.box;
        const zone = region.zone === null ? "" : ` in ${region.zone}`;
        const mm = region.mm && `, ${region.mm.area.toPrecision(2)} mm², ${region.mm.length.toPrecision(2)} mm long, ${region.mm.width.toPrecision(2)} mm wide`;
        const text = `Region ${number + 1}${zone}: peak ${region.peak.toFixed(2)}, ${right - left} × ${bottom - top} px at (${left}, ${top})${mm || ""}`;
        const item = make("li", null);
        const button = make("button", region.evidence ? `${text} · receipt` : text, {
          type: "button",
          id: `region-${number}`,
          "aria-pressed": String(number === chosen),
        });
        button.addEventListener("click", () => choose(number));
        item.append(button);
        return item;
      }),
    );
    if (!image.regions.length) byId("regions").append(make("li", "None above the calibrated threshold.", { class: "soft" }));
  }

  function choose(number) {
    const { image } = current;
    chosen = number;
    [...byId("boxes").children].forEach((rect, index) => rect.setAttribute("class", index === number ? "chosen" : ""));
    [...byId("regions").querySelectorAll("button")].forEach((button, index) =>
      button.setAttribute("aria-pressed", String(index === number)),
    );
    if (image.zoom && !byId("deep").hidden) {
      byId("deep").querySelectorAll(".box").forEach((box, index) => box.classList.toggle("chosen", index === number));
      zoomTo(image.regions[number]);
    }
    const evidence = image.regions[number].evidence;
    byId("receipts").replaceChildren(...(evidence ? [receipt(image.regions[number], number)] : []));
    if (evidence) byId("receipt-title").focus();
  }

  // ---- a receipt ----------------------------------------------------------------------------------------------
  const meters = (rows, signed) => {
    const most = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-30);
    return rows.map(([name, value]) => {
      const row = make("div", null, { class: "meter" });
      const bar = make("span", null, signed ? { class: "signed" } : {});
      const fill = make("i", null, value < 0 ? { class: "less" } : {});
      const share = (100 * Math.abs(value)) / most;
      fill.style.width = `${signed ? share / 2 : share}%`;
      if (signed) fill.style[value < 0 ? "right" : "left"] = "50%";
      bar.append(fill);
      row.append(make("span", String(name)), bar, make("span", signed ? value.toFixed(3) : percent(value, 1)));
      return row;
    });
  };

  function curve(evidence) {
    const points = evidence.curve;
    const [width, height, edge] = [320, 120, 34];
    const xs = points.map(([x]) => x);
    const ys = [...points, ...(evidence.usual_curve || [])].map(([, y]) => y);
    const nearest = points.reduce((best, point) => (Math.abs(point[0]) < Math.abs(best[0]) ? point : best));
    const [withoutNoise, withMostNoise] = [nearest[1], points[points.length - 1][1]];
    const x = (value) => edge + ((value - Math.min(...xs)) / (Math.max(...xs) - Math.min(...xs) || 1)) * (width - edge - 6);
    const y = (value) => height - 22 - (value / (Math.max(...ys) * 1.05 || 1)) * (height - 30);
    const path = (line) => "M" + line.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L");
    const name = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(name, "svg");
    const add = (tag, attributes, text = "") => {
      const element = document.createElementNS(name, tag);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      element.textContent = text;
      picture.append(element);
    };
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("class", "chart");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Distance from ${withoutNoise.toFixed(2)} without noise to ${withMostNoise.toFixed(2)} with the most noise`);
    add("line", { class: "axis", x1: edge, x2: width - 6, y1: y(0), y2: y(0) });
    const typical = evidence.usual_curve || [];
    if (typical.length) add("path", { class: "stroke good", d: path(typical) });
    add("path", { class: "stroke defect", d: path(points) });
    add("text", { x: edge - 4, y: y(withoutNoise) + 4, "text-anchor": "end" }, withoutNoise.toFixed(1));
    add("text", { x: edge - 4, y: y(0) + 4, "text-anchor": "end" }, "0");
    add("text", { x: width - 6, y: height - 6, "text-anchor": "end" }, `noise scale ${Math.min(...xs).toFixed(1)} to ${Math.max(...xs).toFixed(1)}`);
    return picture;
  }

  /* A square crop around a box with its outline; size and box are in pixels of the original image. */
  function crop(file, [height, width], [left, top, right, bottom], words) {
    const side = 150;
    const context = Math.min(Math.max(8 * Math.max(right - left, bottom - top), 64), Math.max(height, width));
    const scale = side / context;
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const figure = make("figure", null, { class: "crop" });
    const frame = make("div", null);
    const picture = make("img", null, { src: file, alt: words, loading: "lazy" });
    const at = (element, l, t, w, h) => {
      element.style.left = `${side / 2 + scale * (l - x)}px`;
      element.style.top = `${side / 2 + scale * (t - y)}px`;
      element.style.width = `${scale * w}px`;
      element.style.height = `${scale * h}px`;
    };
    at(picture, 0, 0, width, height);
    const outline = make("i", null);
    at(outline, left, top, right - left, bottom - top);
    frame.append(picture, outline);
    figure.append(frame, make("figcaption", words));
    return figure;
  }

  function crops(evidence) {
    const pictured = evidence.nearest.filter((near) => data.sources[near.image]);
    if (!current.image.files.image || !pictured.length) return null;
    const row = make("div", null, { class: "crops" });
    row.append(crop(current.image.files.image, current.image.size, evidence.box, "this patch"));
    for (const near of pictured) {
      const source = data.sources[near.image];
      row.append(crop(source.file, source.size, near.box, `good: ${near.distance_in_sd.toFixed(1)} SD away`));
    }
    return row;
  }

  function receipt(region, number) {
    const e = region.evidence;
    const article = make("article", null, { class: "receipt", id: `receipt-${number}`, "aria-labelledby": "receipt-title" });
    article.append(make("h3", `Receipt of region ${number + 1}`, { id: "receipt-title", tabindex: "-1" }));
    const first = e.nearest[0];
    const far = first ? `${first.distance_in_sd.toFixed(1)} standard deviations above the normal distance to the nearest good patch. ` : "";
    article.append(make("p", `${far}p = ${e.p_value.toFixed(4)} for the peak of this region. Evidence from member ${e.member}.`));
    const beside = region.receipt ? null : crops(e);
    if (beside) article.append(beside);
    if (region.receipt) {
      const picture = make("img", null, { src: region.receipt, loading: "lazy", alt: `The patch beside its nearest good patches, region ${number + 1} of ${current.image.name}` });
      const enlarged = make("a", null, { href: region.receipt, target: "_blank", rel: "noopener", title: "Open the receipt as a picture" });
      enlarged.append(picture);
      article.append(enlarged);
    }
    article.append(make("h4", "Nearest good patches"));
    const table = make("table", null);
    const head = make("tr", null);
    for (const name of ["image", "position", "distance", "in SD"]) head.append(make("th", name, { scope: "col" }));
    const top = make("thead", null);
    top.append(head);
    const rows = make("tbody", null);
    for (const near of e.nearest) {
      const row = make("tr", null);
      for (const text of [near.image, `(${near.box[0]}, ${near.box[1]})`, near.distance.toFixed(2), near.distance_in_sd.toFixed(1)])
        row.append(make("td", text));
      rows.append(row);
    }
    table.append(top, rows);
    const scroll = make("div", null, { class: "scroll" });
    scroll.append(table);
    article.append(scroll);
    article.append(make("h4", "Squared distance by layer"), ...meters(Object.entries(e.layer_shares), false));
    article.append(make("h4", "Squared distance by channel"), ...meters(e.channel_shares.map(([channel, share]) => [`channel ${channel}`, share]), false));
    article.append(make("h4", "Influence by channel, signed"), ...meters(e.influence.map(([channel, value]) => [`channel ${channel}`, value]), true));
    article.append(make("h4", "Proposed noise"));
    article.append(make("p", `Standard deviation ${e.noise_std.toFixed(4)}; expected change of the distance ${e.response.toFixed(4)}.`));
    if (e.curve.length > 1) {
      article.append(make("p", "Mean distance as noise grows along the influence" + ((e.usual_curve || []).length ? "; green: a typical patch of this image." : "."), { class: "soft" }), curve(e));
    }
    const back = make("button", "Show the region in the image", { type: "button" });
    back.addEventListener("click", () => {
      byId("stage").scrollIntoView({ block: "start" });
      byId(`region-${number}`).focus();
    });
    article.append(back);
    return article;
  }

  // ---- navigation ---------------------------------------------------------------------------------------------
  byId("gallery").addEventListener("click", (event) => {
    const element = event.target.closest(".card");
    if (!element || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(cards.find((card) => card.element === element));
  });
  byId("gallery").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const element = event.target.closest(".card");
    if (!by || !element) return;
    const next = shown[shown.findIndex((card) => card.element === element) + by];
    if (next) next.element.querySelector("a").focus();
    event.preventDefault();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const act = {
      ArrowRight: () => step(1),
      ArrowLeft: () => step(-1),
      Home: () => shown.length && open(shown[0]),
      End: () => shown.length && open(shown[shown.length - 1]),
      1: () => showView("image"),
      2: () => showView("heat"),
      3: () => showView("influence"),
    }[event.key];
    if (act) {
      act();
      event.preventDefault();
    }
  });
  viewer.addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    if (current) current.element.querySelector("a").focus();
  });
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  byId("close").addEventListener("click", () => viewer.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("print").addEventListener("click", () => print());
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => showView(button.dataset.view));

  let touchStart = null;
  byId("stage").addEventListener("touchstart", (event) => {
    touchStart = event.touches.length === 1 ? [event.touches[0].clientX, event.touches[0].clientY] : null;
  }, { passive: true });
  byId("stage").addEventListener("touchend", (event) => {
    if (!touchStart) return;
    const across = event.changedTouches[0].clientX - touchStart[0];
    const down = event.changedTouches[0].clientY - touchStart[1];
    if (Math.abs(across) > 50 && Math.abs(across) > 2 * Math.abs(down)) step(across < 0 ? 1 : -1);
    touchStart = null;
  }, { passive: true });

  setThreshold(data.threshold, null);
  const linked = /^#image-(\d+)$/.exec(location.hash);
  const card = linked && cards.find((entry) => entry.at === Number(linked[1]));
  if (card) open(card);
})();
