"use strict";
// Draws the charts, sorts the tables of classes, and opens the cells of a confusion matrix. Texts go through
// textContent alone, so that no name is ever read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 360, HEIGHT = 210, LEFT = 46, RIGHT = 18, TOP = 8, BOTTOM = 24;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function written(value) {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  }

  // Values between low and high for the lines of the grid, round ones.
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
    return found;
  }

  function decades(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const each of [1, 2, 5]) found.push(each * 10 ** power);
    const inside = found.filter((each) => each >= low * 0.999 && each <= high * 1.001);
    return inside.length > 6 ? inside.filter((each) => String(each.toExponential()).startsWith("1e")) : inside;
  }

  function extent(values) {
    const low = Math.min(...values), high = Math.max(...values);
    return low === high ? [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)] : [low, high];
  }

  function chart(spec) {
    const place = document.getElementById(spec.id);
    let log = false, at = null;
    const points = spec.series.flatMap((each) => each.points);
    const positive = points.map((each) => each[1]).filter((each) => each > 0);
    const [x0, x1] = extent(points.map((each) => each[0]));
    const X = (value) => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    let Y;

    function draw() {
      const kept = log ? positive : points.map((each) => each[1]);
      let [low, high] = spec.y && !log ? spec.y : extent(kept);
      if (!spec.y && !log) [low, high] = [low - (high - low) * 0.04, high + (high - low) * 0.04];
      if (log && low <= 0) low = high / 10;
      const scale = log ? Math.log10 : (value) => value;
      Y = (value) => HEIGHT - BOTTOM - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (HEIGHT - TOP - BOTTOM);
      const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
      for (const value of log ? decades(low, high) : ticks(low, high, 4)) {
        svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: Y(value), y2: Y(value) }));
        svg.append(shape("text", { x: LEFT - 6, y: Y(value) + 4, "text-anchor": "end" }, written(value)));
      }
      for (const value of ticks(x0, x1, 4))
        svg.append(shape("text", { x: X(value), y: HEIGHT - 8, "text-anchor": "middle" }, written(value)));
      const ends = [];
      for (const each of spec.series) {
        const line = each.points.filter((point) => !log || point[1] > 0);
        if (!line.length) continue;
        const path = line.map(([x, y], index) => `${index ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
        svg.append(shape("path", { d: path, class: `s${each.run % 8}${each.thin ? " thin" : ""}` }));
        if (line.length === 1) svg.append(shape("circle", { cx: X(line[0][0]), cy: Y(line[0][1]), r: 3, class: `s${each.run % 8}` }));
        if (!each.thin) ends.push([line[line.length - 1], each]);
      }
      if (data.runs.length > 1) {
        ends.sort((a, b) => Y(a[0][1]) - Y(b[0][1]));
        let last = -99;
        for (const [[x, y], each] of ends) {
          last = Math.max(Y(y) + 4, last + 11);
          svg.append(shape("text", { x: Math.min(X(x), WIDTH - RIGHT) + 4, y: last, class: `end s${each.run % 8}` }, data.runs[each.run].letter));
        }
      }
      place.replaceChildren(svg);
      if (at !== null) point(at);
    }

    // Shows the values of all series at the step nearest to `value`.
    function point(value) {
      at = value;
      const near = spec.series.map((each) => [each, each.points.reduce((a, b) => (Math.abs(b[0] - value) < Math.abs(a[0] - value) ? b : a))]);
      const own = near.reduce((a, b) => (Math.abs(b[1][0] - value) < Math.abs(a[1][0] - value) ? b : a))[1][0];
      const svg = place.querySelector("svg");
      svg.querySelectorAll(".mark").forEach((each) => each.remove());
      svg.append(shape("line", { class: "cross mark", x1: X(own), x2: X(own), y1: TOP, y2: HEIGHT - BOTTOM }));
      const tip = element("div", { class: "tip" }, element("div", {}, `${spec.x} ${written(own)}`));
      for (const [each, [x, y]] of near) {
        if (log && y <= 0) continue;
        svg.append(shape("circle", { class: `mark s${each.run % 8}`, cx: X(x), cy: Y(y), r: 3.5 }));
        const name = spec.series.length > 1 ? `${each.name}: ` : "";
        tip.append(element("div", {}, `${name}${written(y)}${x === own ? "" : ` at ${written(x)}`}`));
      }
      place.querySelector(".tip")?.remove();
      place.append(tip);
      const share = X(own) / WIDTH;
      if (share > 0.5) tip.style.right = `${(1 - share) * 100 + 3}%`;
      else tip.style.left = `${share * 100 + 3}%`;
    }

    function leave() {
      at = null;
      place.querySelectorAll(".mark, .tip").forEach((each) => each.remove());
    }

    function pointed(event) {
      const box = place.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      point(x0 + ((x - LEFT) / (WIDTH - LEFT - RIGHT)) * (x1 - x0));
    }

    place.addEventListener("pointermove", pointed);
    place.addEventListener("pointerdown", pointed);
    place.addEventListener("pointerleave", leave);
    place.addEventListener("blur", leave);
    place.addEventListener("keydown", (event) => {
      const steps = [...new Set(points.map((each) => each[0]))].sort((a, b) => a - b);
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const now = at === null ? -1 : steps.findIndex((each) => each >= at);
      point(steps[Math.min(Math.max(now + move, 0), steps.length - 1)]);
    });
    if (!spec.y && positive.length) {
      const button = element("button", { type: "button", "aria-pressed": "false" }, "log scale");
      button.addEventListener("click", () => {
        log = !log;
        button.setAttribute("aria-pressed", String(log));
        draw();
      });
      place.parentElement.querySelector("figcaption").append(button);
    }
    draw();
  }

  function sortable(table) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const key = (row, column) => (column ? row.cells[column].dataset.value : row.cells[0].textContent);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "none" ? column > 0 : head.getAttribute("aria-sort") === "ascending";
        for (const each of heads) each.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => {
          const [left, right] = [key(a, column), key(b, column)];
          if (column && (left === "" || right === "")) return (left === "") - (right === "");  // the unknown last
          const order = column ? Number(left) - Number(right) : left.localeCompare(right, "en", { numeric: true });
          return falling ? -order : order;
        });
        body.append(...rows);
      });
    });
  }

  function picture(run, image, facts, kind) {
    const kept = document.getElementById(`image-${run}-${image}-${kind}`);
    const source = kept ? kept.src : facts.small && facts.small[kind];
    if (!source) return null;
    const alt = `${facts.name}, ${kind === "true" ? `true: ${facts.true}` : `predicted: ${facts.found}`}`;
    return element("img", { src: source, alt });
  }

  // Shows the images of a cell, those with a small image in this file first.
  function open(button) {
    const matrix = data.matrices.find((each) => each.id === button.dataset.matrix);
    const place = document.getElementById(matrix.id), images = [...(matrix.cells[button.dataset.cell] || [])];
    const shown = (image) => picture(matrix.run, image, data.images[matrix.run][image], "found") !== null;
    document.querySelectorAll(`[data-matrix="${matrix.id}"][aria-pressed]`).forEach((each) => each.removeAttribute("aria-pressed"));
    button.setAttribute("aria-pressed", "true");
    images.sort((a, b) => shown(b) - shown(a));
    const gallery = element("div", { class: "gallery" }), others = [];
    for (const image of images) {
      const facts = data.images[matrix.run][image];
      const pictures = ["found", "true"].map((kind) => picture(matrix.run, image, facts, kind)).filter(Boolean);
      const file = element("span", { class: "file" }, facts.name);
      if (!pictures.length) {
        others.push(facts.name);
        continue;
      }
      const words = element("dl", {}, element("dt", {}, "predicted"), element("dd", {}, facts.found), element("dt", {}, "true"), element("dd", {}, facts.true));
      const caption = element("figcaption", {}, element("div", {}, element("b", {}, facts.score), " ", file), words);
      gallery.append(element("figure", {}, element("div", { class: "pair" }, ...pictures), caption));
      gallery.classList.toggle("single", pictures.length === 1);
    }
    const heading = element("h4", {}, `${button.getAttribute("aria-label")}${images.length ? "" : ". No image is listed: run morphism eval again."}`);
    place.replaceChildren(heading);
    if (gallery.children.length) place.append(gallery);
    if (others.length) place.append(element("p", { class: "note name" }, `${gallery.children.length ? "Also" : "Only by name"}: ${others.join(", ")}`));
    enlarge(place);
    place.scrollIntoView({ block: "nearest" });
  }

  // Images of few pixels are shown with their pixels.
  function enlarge(within) {
    for (const image of within.querySelectorAll("img")) {
      const mark = () => image.classList.toggle("tiny", image.naturalWidth < 100);
      if (image.complete) mark();
      else image.addEventListener("load", mark);
    }
  }

  data.charts.forEach(chart);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-matrix]");
    if (button) open(button);
  });
  enlarge(document);
})();
