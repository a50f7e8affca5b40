// Reads what the page carries and puts the moving parts in their places; says so where it cannot.
{
  const { make, decode, Time, readAddress, writeAddress, timeBar, keepClear, schedule, redraw } = grokscope;
  const FIRST = ["answers", "plane", "bars"];

  function say(text) {
    document.getElementById("now")?.append(make("p", { class: "note", role: "status" }, text));
  }

  const sectionOf = (slot) => slot.dataset.probe.replace(/^probe-\d+-/, "");

  // The three views that tell the story stand together near the top, the others in their probe's section.
  function placeViews(views) {
    const leading = FIRST.map((kind) => views.find((view) => view.kind === kind)).filter(Boolean);
    if (leading.length) {
      const row = make("div", { class: "views leading" });
      const now = document.getElementById("now");
      const note = "These follow the time bar at the foot of the window, as every chart below does.";
      now.append(make("section", { "aria-labelledby": "now-title" },
        make("h2", { id: "now-title" }, "At this step"), make("p", { class: "note" }, note), row));
      document.querySelector('nav a[href="#summary"]')?.parentElement.after(
        make("li", {}, make("a", { href: "#now-title" }, "At this step")));
      for (const view of leading) grokscope.addView(view, row);
    }
    const slots = [...document.querySelectorAll(".views[data-probe]")];
    for (const view of views) {
      if (leading.includes(view)) continue;
      const slot = slots.find((one) => sectionOf(one) === view.probe || one.dataset.probe === view.probe);
      if (slot) grokscope.addView(view, slot);
    }
    for (const slot of slots) slot.hidden = !slot.childElementCount;
  }

  // Axes that are described whole are drawn anew; what else the printed figure holds stands beside them.
  function placeFigure(svg, chart, series) {
    const live = chart.axes.filter((axes) => axes.time && axes.live);
    const rest = live.length ? grokscope.restOf(svg, live) : null;
    if (!rest) {
      grokscope.addPanel(grokscope.printedPanel(svg, chart));
      return;
    }
    const title = svg.querySelector("title")?.textContent ?? "";
    const panels = live.map((axes) => ({
      at: axes.rect[0],
      ...grokscope.chartPanel(axes, series, [title, axes.title, axes.ylabel].filter(Boolean).join(", ")),
    }));
    if (rest.length) {
      const part = grokscope.cutOut(svg, rest, title);
      const others = { axes: chart.axes.filter((axes) => axes.time && !axes.live) };
      panels.push({ at: Math.min(...rest.map(({ box }) => box.x)), ...grokscope.printedPanel(part, others) });
    }
    const row = make("div", { class: `live of-${Math.min(3, panels.length)}` });
    svg.closest("figure").classList.add("is-live");
    svg.after(row);
    for (const panel of panels.sort((one, other) => one.at - other.at)) {
      row.append(panel.element);
      grokscope.addPanel(panel);
    }
  }

  function placeCharts(charts, series) {
    for (const svg of document.querySelectorAll("svg.figure[data-figure]")) {
      const chart = charts[svg.dataset.figure];
      if (chart?.axes.some((axes) => axes.time)) placeFigure(svg, chart, series);
      grokscope.tools(svg.closest("figure"), svg.dataset.figure, chart ?? { axes: [] }, series);
    }
  }

  async function start() {
    const held = document.getElementById("live");
    if (!held || !held.textContent.trim()) return;
    if (!("DecompressionStream" in window)) {
      say("This browser has no DecompressionStream to unpack the arrays of this page; the printed figures stand.");
      return;
    }
    let live;
    let series;
    try {
      live = JSON.parse(held.textContent);
      const steps = live.steps;
      const { values } = live.series;
      const frames = values && values.shape[0] ? await decode(values) : null;
      series = { ...live.series, steps, values: frames ? frames.floats : new Float32Array() };
    } catch (error) {
      say(`The arrays of this page could not be unpacked (${error.message}); the printed figures stand.`);
      return;
    }
    if (!live.steps.length) return;

    const time = new Time(live.steps, live.last, live.events || []);
    grokscope.time = time;
    const { bar, show } = timeBar(time);
    let writing = 0;
    const follow = (write) => {
      const { row, pinned } = readAddress(time);
      if (row !== null) time.set(row);
      if (pinned !== time.pinned && (row !== null || pinned !== null)) time.pin(pinned);
      if (write) show();
    };
    follow(false);
    time.listeners.push((what) => {
      show();
      if (what === "step") schedule(true);
      else redraw();
      clearTimeout(writing);
      if (what !== "scale") writing = setTimeout(() => writeAddress(time), 150);
    });
    addEventListener("hashchange", () => follow(true));
    placeViews(live.views || []);
    placeCharts(live.charts || {}, series);
    document.body.append(bar);
    document.documentElement.classList.add("moving");
    show();
    keepClear(bar);
    document.documentElement.dataset.ready = "";
    grokscope.readAhead();
  }

  start();
}
