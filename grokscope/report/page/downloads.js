// Under each figure: its data as a table, as CSV and JSON, and its drawing as SVG, made when they are asked for.
{
  const { make, draw, number, exact, whole, points, lineName, slug, decode } = grokscope;
  const ROWS = 200;

  // Lines of one axis in columns over all the places at which any of them has a point.
  function columnsOf(group, series) {
    const lines = group.flatMap((axes) => axes.lines.map((line) => ({
      name: lineName(line, group.length > 1 || axes.title ? axes : { ylabel: axes.ylabel }),
      since: Boolean(series.intervals?.[line.series ?? -1]),
      ...points(line, series),
    })));
    const places = new Set();
    for (const line of lines) for (const step of line.steps) places.add(step);
    const order = [...places].sort((a, b) => a - b);
    const columns = lines.map((line) => {
      if (line.steps === series.steps && order.length === line.steps.length) return line.values;
      const known = new Map();
      Array.prototype.forEach.call(line.steps, (step, at) => known.set(step, line.values[at]));
      return order.map((step) => known.get(step) ?? NaN);
    });
    return { head: lines.map(({ name, since }) => (since ? `${name} (since the save before)` : name)), order, columns };
  }

  // Lines without names in a drawing that is not described whole are strokes, not data.
  const hasData = (axes) => Boolean(axes.lines?.some((line) => axes.live || line.label));

  // What was read off the drawing of other axes. Maps are packed: they are opened when somebody asks for them.
  async function opened({ title, head, columns, x, labels, values }) {
    if (columns) return { title, first: head[0], head: head.slice(1), order: columns[0], columns: columns.slice(1) };
    const frames = await decode(values);
    const rows = x.map((_, at) => frames.values(at).slice());
    const rounded = `${title} (8-bit, rounded by at most ${number(values.error, 2)})`;
    const across = labels.map((_, at) => rows.map((row) => row[at]));
    return { title: rounded, first: head[0], head: labels, order: x, columns: across };
  }

  // One table for the lines of all axes over time together, and those of the other marks.
  async function tablesOf(chart, series) {
    const group = chart.axes.filter((axes) => axes.time && hasData(axes));
    const others = chart.axes.flatMap((axes) => axes.tables ?? []);
    const lines = group.length ? [{ title: "", first: "step", ...columnsOf(group, series) }] : [];
    return [...lines, ...await Promise.all(others.map(opened))];
  }

  // A cell that a spreadsheet would take for a formula gets an apostrophe.
  function cell(text) {
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function csv(tables) {
    const value = (one) => (typeof one === "string" ? cell(one) : exact(one));
    const one = ({ first, head, order, columns }) => [
      [first, ...head].map(cell).join(","),
      ...order.map((step, row) => [step, ...columns.map((column) => column[row])].map(value).join(",")),
    ].join("\n");
    return `${tables.map(one).join("\n\n")}\n`;
  }

  async function json(key, title, chart, series) {
    const plain = (values) => Array.from(values, (value) => {
      if (typeof value === "string") return value;
      const text = exact(value);
      return text === "" ? null : Number(text);
    });
    const axes = chart.axes.filter(hasData).map((one) => ({
      title: one.title || "", ylabel: one.ylabel || "", over: "step",
      lines: one.lines.map((line) => {
        const { steps, values } = points(line, series);
        return { label: line.name || line.label, x: plain(steps), y: plain(values) };
      }),
      bands: one.bands || [], levels: one.levels || [],
    }));
    const read = await Promise.all(chart.axes.flatMap((one) => one.tables ?? []).map(opened));
    const tables = read.map((table) => ({
      title: table.title, head: [table.first, ...table.head], columns: [table.order, ...table.columns].map(plain),
    }));
    return `${JSON.stringify({ figure: key, title, axes, tables }, null, 1)}\n`;
  }

  function save(name, type, text) {
    const address = URL.createObjectURL(new Blob([text], { type }));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "fill-opacity", "opacity",
    "font-size", "font-family", "font-weight", "text-anchor", "visibility", "paint-order", "display"];

  // A drawing that stands on its own: what style sheet and theme say is written into each element.
  function standalone(svg) {
    const copy = svg.cloneNode(true);
    const [from, to] = [svg, copy].map((root) => root.querySelectorAll("*"));
    from.forEach((element, at) => {
      const style = getComputedStyle(element);
      const said = KEPT.map((name) => `${name}: ${style.getPropertyValue(name)}`);
      to[at].setAttribute("style", said.join("; "));
      to[at].removeAttribute("class");
    });
    return copy;
  }

  function asSvg(figure, title) {
    const sheet = figure.querySelector(":scope > svg.figure");
    const plots = figure.querySelector(".part") ? [] : [...figure.querySelectorAll("svg.plot")];
    const paper = grokscope.colour("--paper");
    const root = draw("svg", { xmlns: "http://www.w3.org/2000/svg" }, draw("title", {}, title));
    const rect = (width, height) => draw("rect", { width, height, fill: paper });
    if (!plots.length) {
      const printed = standalone(sheet);
      printed.querySelectorAll("g.cursor").forEach((group) => group.remove());
      const { width, height } = sheet.viewBox.baseVal;
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      root.append(rect(width, height), ...printed.childNodes);
      return new XMLSerializer().serializeToString(root);
    }
    let [x, tallest] = [0, 0];
    for (const plot of plots) {
      const { width, height } = plot.viewBox.baseVal;
      const block = plot.closest(".axes");
      const names = [...block.querySelectorAll(".entries li")];
      const text = (content, at, fill) => draw("text", {
        x: 10, y: at, style: `font: 12px sans-serif; fill: ${grokscope.colour(fill)}`,
      }, content);
      const group = draw("g", { transform: `translate(${x} 0)` },
        text(block.querySelector(".of").textContent, 16, "--ink"),
        draw("g", { transform: "translate(0 22)" }, ...standalone(plot).childNodes));
      names.forEach((item, row) => {
        const at = height + 40 + 17 * row;
        const swatch = standalone(item.querySelector("svg")).childNodes;
        group.append(draw("g", { transform: `translate(10 ${at - 9})` }, ...swatch));
        const words = text(item.querySelector(".name").textContent, at, "--ink");
        words.setAttribute("x", 40);
        group.append(words);
      });
      root.append(group);
      x += width + 20;
      tallest = Math.max(tallest, height + 40 + 17 * names.length);
    }
    root.setAttribute("viewBox", `0 0 ${x} ${tallest}`);
    root.firstChild.after(rect(x, tallest));
    return new XMLSerializer().serializeToString(root);
  }

  // One page of rows at a time, opened where the time stands.
  function tableView({ title, first, head, order, columns }) {
    const { time } = grokscope;
    const pages = Math.ceil(order.length / ROWS);
    const here = first === "step" ? Math.max(0, order.indexOf(time.step)) : 0;
    let page = Math.floor(here / ROWS);
    // a column of whole numbers is written out as such
    const plain = (values) => Array.prototype.every.call(values, (value) =>
      value === null || Number.isNaN(value) || (Number.isInteger(value) && Math.abs(value) < 1e9));
    const written = [order, ...columns].map((values) => (plain(values) ? whole : (value) => number(value, 4)));
    const shown = (value, at) => {
      if (typeof value === "string") return value;
      return Number.isFinite(value ?? NaN) ? written[at](value) : number(NaN);
    };
    const body = make("tbody");
    const where = make("span", { role: "status" });
    const turn = (by, text) => make("button", { type: "button", onclick: () => { page += by; show(); } }, text);
    const [back, on] = [turn(-1, "Earlier rows"), turn(1, "Later rows")];
    function show() {
      const start = page * ROWS;
      body.replaceChildren(...order.slice(start, start + ROWS).map((step, at) => {
        const name = shown(step, 0);
        const marks = first === "step" && step === time.step ? { "aria-current": "true" } : {};
        return make("tr", marks, make("th", { scope: "row" }, name),
          ...columns.map((column, place) => make("td", {}, shown(column[start + at], place + 1))));
      }));
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
      const end = Math.min(order.length, start + ROWS);
      where.textContent = `rows ${whole(start + 1)} to ${whole(end)} of ${whole(order.length)}`;
    }
    show();
    const names = [first, ...head].map((name, at) => make("th", { scope: "col", class: at ? false : "l" }, name));
    const caption = title ? [make("caption", {}, title)] : [];
    const table = make("table", {}, ...caption, make("thead", {}, make("tr", {}, ...names)), body);
    const name = title || `Data of the figure by ${first}`;
    const frame = { class: "scroll rows", tabindex: "0", role: "group", "aria-label": name };
    return make("div", {}, make("div", frame, table), pages > 1 ? make("p", { class: "turn" }, back, on, where) : "");
  }

  function tools(figure, key, chart, series) {
    const caption = figure.querySelector("figcaption b")?.textContent ?? key;
    const title = caption.replace(/^Figure \d+\. /, "").replace(/\.$/, "");
    const stem = `${slug(document.querySelector("h1").textContent)}-${key}-${slug(title)}`;
    const row = make("p", { class: "tools", role: "group", "aria-label": `Data of: ${title}` });
    const place = figure.querySelector("figcaption") ?? figure.lastElementChild;
    const button = (text, onclick) => row.append(make("button", { type: "button", onclick }, text));
    if (chart.axes.some((axes) => axes.tables?.length || (axes.time && hasData(axes)))) {
      const holder = make("div", { class: "data", hidden: true });
      button("Table", async (event) => {
        holder.hidden = !holder.hidden;
        event.target.setAttribute("aria-expanded", String(!holder.hidden));
        const tables = holder.hidden ? [] : await tablesOf(chart, series);
        holder.replaceChildren(...(holder.hidden ? [] : tables.map(tableView)));
        for (const here of holder.querySelectorAll("tr[aria-current]")) {
          const box = here.closest(".scroll");
          box.scrollTop = here.offsetTop - box.clientHeight / 2;
        }
      });
      row.firstChild.setAttribute("aria-expanded", "false");
      button("CSV", async () => save(`${stem}.csv`, "text/csv", csv(await tablesOf(chart, series))));
      button("JSON", async () => save(`${stem}.json`, "application/json", await json(key, title, chart, series)));
      place.after(row, holder);
    } else place.after(row);
    button("SVG", () => save(`${stem}.svg`, "image/svg+xml", asSvg(figure, title)));
  }

  Object.assign(grokscope, { tools });
}
