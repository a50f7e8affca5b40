// Charts over time, drawn anew from all saves: on the chosen time axis, with cursors and values at the cursor.
{
  const { make, draw, number, valueAxis, timeTicks } = grokscope;
  const TOP = 22;
  const FOOT = 42;
  const RIGHT = 14;
  let clips = 0;

  const dashes = (line) => (Array.isArray(line.dash) && line.dash.length ? line.dash.join(" ") : null);

  // The points of a line: at every save, or at steps of its own.
  function points(line, series) {
    if ((line.series ?? null) === null) return { steps: line.x, values: line.y };
    const { values, steps } = series;
    return { steps, values: values.subarray(line.series * steps.length, (line.series + 1) * steps.length) };
  }

  function valueAt(line, row) {
    const { time } = grokscope;
    if (line.steps === time.steps) return line.values[row];
    let best = 0;
    for (let at = 1; at < line.steps.length; at++) {
      if (Math.abs(line.steps[at] - time.steps[row]) < Math.abs(line.steps[best] - time.steps[row])) best = at;
    }
    return line.values[best] ?? NaN;
  }

  function path(line, x, y) {
    let text = "";
    let pen = "M";
    for (let at = 0; at < line.steps.length; at++) {
      const value = line.values[at];
      const height = value === null ? NaN : y(value);
      if (!Number.isFinite(height)) {
        pen = "M";
        continue;
      }
      text += `${pen}${x(line.steps[at]).toFixed(1)} ${height.toFixed(1)}`;
      pen = "L";
    }
    return text;
  }

  const EVENT_COLOURS = { fit: "--c1", grok: "--c2" };
  const eventColour = (event) => EVENT_COLOURS[event.name] || "--soft";

  function eventMarks(x, top, foot, width) {
    const group = draw("g", { class: "events" });
    const shown = grokscope.time.events.map((event) => ({ event, at: x(event.by) })).sort((a, b) => a.at - b.at);
    shown.forEach(({ event, at }, place) => {
      const from = event.after === null ? at : x(event.after);
      const [style, stroke] = ["fill", "stroke"].map((name) => `${name}: var(${eventColour(event)})`);
      group.append(
        draw("rect", { x: from, y: top, width: Math.max(0, at - from), height: foot - top, style, opacity: 0.18 }),
        draw("line", { x1: at, x2: at, y1: top, y2: foot, class: "event", style: stroke }),
      );
      const left = at - (shown[place - 1]?.at ?? -Infinity);
      const right = (shown[place + 1]?.at ?? Infinity) - at;
      const near = 12 + 7 * event.label.length;
      if (left < near && right < near) return; // no room for its name; the table of events has it
      const end = right < near || at > width - near + RIGHT;
      group.append(draw("text", {
        x: at + (end ? -3 : 3), y: top - 6, class: "event-name", "text-anchor": end ? "end" : "start", style,
      }, event.label));
    });
    return group;
  }

  function bands(axes, y, left, right) {
    const group = draw("g", { class: "bands" });
    const taken = [];
    // names stand at the right end; one that would lie over another stands further left
    const label = (text, at) => {
      const near = taken.filter((other) => Math.abs(other.at - at) < 13);
      const x = right - 4 - near.reduce((room, other) => room + 12 + 6.4 * other.length, 0);
      taken.push({ at, length: text.length });
      group.append(draw("text", { x, y: at, class: "band-name", "text-anchor": "end" }, text));
    };
    const clamp = (value) => Math.max(0, Math.min(1, Number.isFinite(value) ? value : 0));
    for (const band of axes.bands || []) {
      const [from, to] = [band.from, band.to].map((value) => y(clamp(axes.axis.place(value))));
      const [width, height] = [right - left, Math.max(1, from - to)];
      group.append(draw("rect", { x: left, y: to, width, height, class: "band" }));
      if (band.label) label(band.label, to - 4 < TOP + 8 ? from + 12 : to - 4);
    }
    for (const level of axes.levels || []) {
      const place = axes.axis.place(level.at);
      if (!(place >= 0 && place <= 1)) continue;
      group.append(draw("line", { x1: left, x2: right, y1: y(place), y2: y(place), class: "level" }));
      if (level.label) label(level.label, y(place) - 4);
    }
    return group;
  }

  // A pointer anywhere on `target` moves the time; `placeOf(event)` is where on the axis it points, 0 to 1.
  function drag(target, placeOf) {
    const move = (event) => {
      const place = placeOf(event);
      if (place !== null) grokscope.time.set(grokscope.time.rowAt(Math.max(0, Math.min(1, place))));
    };
    target.classList.add("draggable");
    target.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || placeOf(event) === null) return;
      target.setPointerCapture(event.pointerId);
      move(event);
    });
    target.addEventListener("pointermove", (event) => {
      if (target.hasPointerCapture(event.pointerId)) move(event);
    });
  }

  function cursor(kind) {
    return draw("g", { class: `cursor ${kind}`, visibility: "hidden" }, draw("line", { x1: 0, x2: 0 }));
  }

  // The lines of an axes with their names, and their values where the time stands and where it is pinned.
  function entriesOf(axes) {
    const items = axes.lines.filter((line) => line.label).map((line) => {
      const stroke = `stroke: var(${line.colour}); stroke-width: ${Math.max(line.width || 1.7, 1.5)}`;
      const swatch = draw("svg", { width: 22, height: 10, "aria-hidden": "true" },
        draw("line", { x1: 0, x2: 22, y1: 5, y2: 5, style: stroke, "stroke-dasharray": dashes(line) }));
      line.shown = make("output", { class: "value" });
      line.pinnedShown = make("output", { class: "value pinned" });
      return make("li", {}, swatch, make("span", { class: "name" }, line.label), line.pinnedShown, line.shown);
    });
    return make("ul", { class: "entries" }, ...items);
  }

  function tell(axes, entries) {
    const { time } = grokscope;
    entries.classList.toggle("two", time.pinned !== null);
    for (const line of axes.lines) {
      if (!line.shown) continue;
      line.shown.textContent = number(valueAt(line, time.row) ?? NaN);
      if (time.pinned !== null) line.pinnedShown.textContent = number(valueAt(line, time.pinned) ?? NaN);
    }
  }

  function chartPanel(axes, series, name) {
    const { time } = grokscope;
    for (const line of axes.lines) Object.assign(line, points(line, series));
    const plot = draw("svg", { class: "plot", role: "img", "aria-label": `${name}, over training steps` });
    const entries = entriesOf(axes);
    const element = make("div", { class: "axes" }, make("p", { class: "of" }, axes.title || axes.ylabel || ""),
      axes.title && axes.ylabel ? make("p", { class: "unit" }, axes.ylabel) : "", plot, entries);
    const clip = `clip-${++clips}`;
    const box = {};
    let [present, pinned] = [];

    function extent() {
      const width = Math.max(220, plot.clientWidth || element.clientWidth);
      const height = Math.round(Math.max(190, Math.min(300, width * 0.56)));
      plot.setAttribute("height", height);
      return [width, height];
    }

    function drawAll() {
      const [width, height] = extent();
      axes.axis = valueAxis(axes, Math.floor((height - TOP - FOOT) / 38));
      const longest = Math.max(1, ...axes.axis.ticks.map(({ label }) => label.length));
      const [left, right, foot] = [10 + 7 * longest, width - RIGHT, height - FOOT];
      Object.assign(box, { left, right, foot });
      box.x = (step) => left + time.place(step) * (right - left);
      const y = (place) => foot - place * (foot - TOP);
      box.y = (value) => y(axes.axis.place(value));
      plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const grid = draw("g", { class: "grid" });
      const labels = draw("g", { class: "ticks" });
      let above = Infinity;
      for (const { value, label } of axes.axis.ticks) {
        const at = box.y(value);
        if (!(at >= TOP - 1 && at <= foot + 1 && above - at >= 15)) continue;
        above = at;
        grid.append(draw("line", { x1: left, x2: right, y1: at, y2: at }));
        labels.append(draw("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, label));
      }
      for (const { at, label } of timeTicks(time, right - left)) {
        grid.append(draw("line", { x1: left + at, x2: left + at, y1: TOP, y2: foot }));
        labels.append(draw("text", { x: left + at, y: foot + 17, "text-anchor": "middle" }, label));
      }
      const curves = draw("g", { "clip-path": `url(#${clip})`, class: "curves" });
      const dots = { present: [], pinned: [] };
      [present, pinned] = [cursor("present"), cursor("pinned")];
      for (const line of axes.lines) {
        const style = `stroke: var(${line.colour}); stroke-width: ${line.width || 1.7}`;
        curves.append(draw("path", { d: path(line, box.x, box.y), style, "stroke-dasharray": dashes(line) }));
        for (const [kind, group] of [["present", present], ["pinned", pinned]]) {
          const dot = draw("circle", { r: 3.2, style: `fill: var(${line.colour})` });
          dots[kind].push(dot);
          group.append(dot);
        }
      }
      box.dots = dots;
      for (const group of [present, pinned]) {
        group.firstChild.setAttribute("y1", TOP);
        group.firstChild.setAttribute("y2", foot);
      }
      pinned.append(draw("text", { y: TOP + 10, x: -5, "text-anchor": "end" }, "A"));
      const inside = draw("rect", { x: left, y: TOP - 2, width: right - left, height: foot - TOP + 4 });
      const below = { x: (left + right) / 2, y: foot + 36, "text-anchor": "middle" };
      plot.replaceChildren(
        draw("clipPath", { id: clip }, inside), grid, bands(axes, y, left, right), eventMarks(box.x, TOP, foot, width),
        draw("path", { class: "spine", d: `M${left} ${TOP}V${foot}H${right}` }), labels,
        draw("text", below, "training step"), curves, pinned, present);
      follow();
    }

    function put(group, dots, row) {
      group.setAttribute("visibility", row === null ? "hidden" : "visible");
      if (row === null) return;
      group.setAttribute("transform", `translate(${box.x(time.steps[row]).toFixed(1)} 0)`);
      axes.lines.forEach((line, at) => {
        const value = valueAt(line, row);
        const height = value === null ? NaN : box.y(value);
        const inside = height >= TOP - 3 && height <= box.foot + 3;
        dots[at].setAttribute("visibility", inside ? "inherit" : "hidden");
        if (inside) dots[at].setAttribute("cy", height.toFixed(1));
      });
    }

    function follow() {
      put(present, box.dots.present, time.row);
      put(pinned, box.dots.pinned, time.pinned);
      tell(axes, entries);
    }

    drag(plot, (event) => {
      const { left, width } = plot.getBoundingClientRect();
      const at = ((event.clientX - left) / width) * plot.viewBox.baseVal.width;
      return (at - box.left) / (box.right - box.left);
    });
    return { element, draw: drawAll, follow, reserve: extent };
  }

  const lineName = (line, axes) => [axes.title, axes.ylabel, line.name || line.label].filter(Boolean).join(": ");

  Object.assign(grokscope, { chartPanel, drag, cursor, points, lineName });
}
