// The bar at the foot of the window: play, step, scale of time, pin.
{
  const { make, whole } = grokscope;
  const ICONS = {
    play: "M5 3.2v9.6L13 8z",
    pause: "M4.5 3.5h2.5v9H4.5zM9 3.5h2.5v9H9z",
    previous: "M10.5 3.5v9L4.5 8zM3 3.5h1.4v9H3z",
    next: "M5.5 3.5v9L11.5 8zM11.6 3.5H13v9h-1.4z",
  };
  const WHOLE_RUN = 18_000; // milliseconds from the first save to the last, for runs of many saves
  const LEAST_PAUSE = 50;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  function icon(name) {
    return grokscope.draw("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
      grokscope.draw("path", { d: ICONS[name], fill: "currentColor" }));
  }

  function iconButton(name, label, onclick) {
    return make("button", { type: "button", class: "round", "aria-label": label, title: label, onclick }, icon(name));
  }

  // Play moves on by as many saves as keep the whole run under half a minute; calmly, under a minute.
  function player(time, button) {
    let timer = 0;
    const show = (playing) => {
      button.replaceChildren(icon(playing ? "pause" : "play"));
      const label = playing ? "Pause" : "Play";
      button.setAttribute("aria-label", label);
      button.title = label;
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      show(false);
    };
    const start = () => {
      const saves = time.steps.length;
      const pause = calm.matches ? 1000 : Math.max(LEAST_PAUSE, Math.min(250, WHOLE_RUN / saves));
      const stride = Math.max(1, Math.round((saves * pause) / (calm.matches ? 45_000 : WHOLE_RUN)));
      if (time.row === saves - 1) time.set(0);
      timer = setInterval(() => {
        time.set(time.row + stride);
        if (time.row === saves - 1) stop();
      }, pause);
      show(true);
    };
    return { stop, toggle: () => (timer ? stop() : start()) };
  }

  // Bands of the events along the slider, which counts saves and not steps.
  function marks(time) {
    const most = Math.max(1, time.steps.length - 1);
    const shown = time.events.filter(({ name }) => ["fit", "grok"].includes(name));
    return shown.map(({ name, label, after, by }) => {
      const [from, to] = [time.rowOf(after ?? by), time.rowOf(by)].map((row) => (100 * row) / most);
      const mark = make("span", { class: `mark-of ${name}` }, make("span", {}, label));
      mark.style.left = `${from}%`;
      mark.style.width = `${to - from}%`;
      if (to > 90) mark.classList.add("late");
      return mark;
    });
  }

  function timeBar(time) {
    const most = time.steps.length - 1;
    const slider = make("input", { type: "range", min: 0, max: most, step: 1, value: time.row, "aria-label": "Save" });
    const box = make("input", {
      type: "number", min: time.steps[0], max: time.last, step: "any", inputmode: "numeric", "aria-label": "Step",
    });
    const said = make("span", { class: "unseen", role: "status", "aria-live": "polite" });
    const pinButton = make("button", { type: "button", class: "pin" });
    const unpin = make("button", { type: "button", class: "pin", hidden: true }, "Unpin");
    const scale = make("select", { "aria-label": "Time axis" },
      ...time.scales.map(([value, text]) => make("option", { value, selected: value === time.scale }, text)));
    const playButton = iconButton("play", "Play", () => play.toggle());
    const play = player(time, playButton);
    const by = (rows) => () => {
      play.stop();
      time.set(time.row + rows);
    };
    const folds = { type: "button", class: "fold", "aria-expanded": "false", "aria-controls": "time-more" };
    const more = make("button", folds, "More");
    const extras = make("div", { class: "extras", id: "time-more" },
      make("label", {}, "time ", scale), make("span", { class: "pins" }, pinButton, unpin));
    const events = make("div", { class: "marks", "aria-hidden": "true" }, ...marks(time));
    const track = make("div", { class: "track" }, events, slider);
    const bar = make("section", { class: "timebar", "aria-label": "Time" },
      make("div", { class: "inner" },
        make("div", { class: "buttons" }, iconButton("previous", "Previous save", by(-1)), playButton,
          iconButton("next", "Next save", by(1))),
        track,
        make("p", { class: "now-at" }, make("label", {}, "step ", box), ` of ${whole(time.last)}`),
        more, extras, said));

    slider.addEventListener("input", () => {
      play.stop();
      time.set(Number(slider.value));
    });
    slider.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      play.toggle();
    });
    box.addEventListener("change", () => {
      play.stop();
      if (box.value !== "") time.set(time.rowOf(Number(box.value)));
      show();
    });
    scale.addEventListener("change", () => time.setScale(scale.value));
    pinButton.addEventListener("click", () => time.pin(time.row));
    unpin.addEventListener("click", () => {
      time.pin(null);
      pinButton.focus();
    });
    more.addEventListener("click", () => {
      const open = bar.classList.toggle("open");
      more.setAttribute("aria-expanded", String(open));
      more.textContent = open ? "Less" : "More";
    });

    function text() {
      const phase = time.phase(time.row);
      return `step ${whole(time.step)} of ${whole(time.last)}${phase ? `, ${phase}` : ""}`;
    }
    let silence = 0;
    function show() {
      slider.value = time.row;
      slider.setAttribute("aria-valuetext", text());
      if (document.activeElement !== box || Number(box.value) !== time.step) box.value = time.step;
      const pinned = time.pinned !== null;
      pinButton.textContent = pinned ? `A: step ${whole(time.steps[time.pinned])}` : "Pin this step";
      pinButton.title = pinned ? "Pin the present step instead" : "Keep this step to compare others with it";
      pinButton.classList.toggle("set", pinned);
      unpin.hidden = !pinned;
      // a screen reader is told where the time came to rest, not every step on the way
      clearTimeout(silence);
      silence = setTimeout(() => {
        said.textContent = text() + (pinned ? `; compared with step ${whole(time.steps[time.pinned])}` : "");
      }, 600);
    }
    show();
    return { bar, show };
  }

  // What has the focus is never under the bar: the window scrolls clear of it.
  function keepClear(bar) {
    new ResizeObserver(() => {
      document.documentElement.style.scrollPaddingBottom = `${bar.offsetHeight + 12}px`;
    }).observe(bar);
    document.addEventListener("focusin", ({ target }) => {
      if (bar.contains(target)) return;
      const [below, edge] = [target.getBoundingClientRect(), bar.getBoundingClientRect().top];
      if (below.bottom > edge && below.height < edge) scrollBy(0, below.bottom - edge + 12);
    });
  }

  Object.assign(grokscope, { timeBar, keepClear });
}
