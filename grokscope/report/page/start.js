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
      now.append(make("section", { "aria-labelledby": "now-title" }, make("h2", { id: "now-title" }, "At this step"),
        make("p", { class: "note" }, "These follow the time bar at the foot of the window, as every chart below does."), row));
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

  function placeCharts(charts, series) {
    for (const svg of document.querySelectorAll("svg.figure[data-figure]")) {
      const key = svg.dataset.figure;
      const chart = charts[key];
      const figure = svg.closest("figure");
      // what is not described whole keeps its printed form, with the cursor laid over it
      if (chart?.axes.length && chart.whole !== false && chart.axes.every((axes) => axes.time && axes.live)) {
        const title = svg.querySelector("title")?.textContent ?? key;
        const live = make("div", { class: `live of-${Math.min(3, chart.axes.length)}` });
        figure.classList.add("is-live");
        svg.after(live);
        for (const axes of chart.axes) {
          const panel = grokscope.chartPanel(axes, series, [title, axes.title, axes.ylabel].filter(Boolean).join(", "));
          live.append(panel.element);
          grokscope.addPanel(panel);
        }
      } else if (chart?.axes.some((axes) => axes.time)) {
        grokscope.addPanel(grokscope.printedPanel(svg, chart));
      }
      grokscope.tools(figure, key, chart ?? { axes: [] }, series);
    }
  }

  async function start() {
    const held = document.getElementById("live");
    if (!held || !held.textContent.trim()) return;
    if (!("DecompressionStream" in window)) {
      say("This browser cannot unpack the arrays of this page (it has no DecompressionStream); the printed figures stand.");
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
