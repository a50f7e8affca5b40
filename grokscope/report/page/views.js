// Pictures of one step: each is a kind of its own, put in a frame with its name, its layers and its caption.
{
  const { make, decode, number, whole, addPanel, redraw } = grokscope;
  const kinds = {};
  const WIDEST = 560;

  // Rounding and range of what is shown, as the array states them.
  function precision(meta) {
    if (!meta) return "";
    const pieces = [];
    if (meta.frames) pieces.push(`${whole(meta.frames.length)} keyframes`);
    if (meta.type === "u8" || meta.type === "u16") {
      pieces.push(`${meta.type === "u8" ? 8 : 16}-bit${meta.scale === "log10" ? " logarithmic" : ""}`);
      const relative = meta.scale === "log10";
      const rounding = relative ? `${number(100 * meta.error, 2)} %` : number(meta.error, 2);
      if (meta.error > 0) pieces.push(`rounded by at most ${rounding}`);
    }
    return pieces.join(", ");
  }

  function canvas(label) {
    return make("canvas", { role: "img", "aria-label": label });
  }

  const sizes = new WeakMap();
  // The canvas in the pixels of the screen, its context in those of the page. Its width is asked for only where it
  // may have changed: to answer, the browser would lay out the whole page anew at every step.
  function ready(element, aspect, measure = true) {
    if (measure || !sizes.has(element)) {
      const width = Math.max(120, Math.min(WIDEST, Math.floor(element.parentElement.clientWidth)));
      const height = Math.round(width * aspect);
      const dense = Math.min(3, devicePixelRatio || 1);
      const [across, down] = [Math.round(width * dense), Math.round(height * dense)];
      if (element.width !== across || element.height !== down) {
        element.width = across;
        element.height = down;
        element.style.width = `${width}px`;
        element.style.height = `${height}px`;
      }
      sizes.set(element, { context: element.getContext("2d"), width, height, dense });
    }
    const plot = sizes.get(element);
    const { context, width, height, dense } = plot;
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    return plot;
  }

  // Hatching and a word, where there is nothing to show: at a save whose weights are not finite.
  function missing({ context, width, height }, { left = 0, right = width, top = 0, foot = height } = {}) {
    context.save();
    context.beginPath();
    context.rect(left, top, right - left, foot - top);
    context.clip();
    context.strokeStyle = grokscope.colour("--rule");
    context.lineWidth = 1;
    context.beginPath();
    for (let x = left - (foot - top); x < right; x += 8) {
      context.moveTo(x, foot);
      context.lineTo(x + foot - top, top);
    }
    context.stroke();
    context.restore();
    if (right - left < 60) return;
    context.strokeStyle = grokscope.colour("--paper");
    context.fillStyle = grokscope.colour("--soft");
    context.lineWidth = 3;
    context.textAlign = "center";
    context.strokeText(UNDEFINED, (left + right) / 2, (top + foot) / 2);
    context.fillText(UNDEFINED, (left + right) / 2, (top + foot) / 2);
  }
  const UNDEFINED = "undefined at this step";

  // A pane is one picture; a kind that does not lay the pinned step over has a second pane beside it.
  function pane(kind, view, which) {
    const stand = make("p", { class: "stand" });
    const holder = make("div", { class: "picture" });
    const element = make("div", { class: `pane ${which}` }, stand, holder);
    return { element, stand, holder, picture: kind.picture(view, holder, which) };
  }

  function addView(view, slot) {
    const { time } = grokscope;
    const kind = kinds[view.kind];
    const title = make("h3", {}, view.title);
    const element = make("article", { class: `view ${view.kind}`, "aria-label": view.title }, title);
    slot.append(element);
    if (!kind) {
      element.append(make("p", { class: "note" }, `This page does not know how to show “${view.kind}”.`));
      return;
    }
    let layer = 0;
    let arrays = null;
    const panes = make("div", { class: "panes" });
    const shown = [pane(kind, view, "present")];
    const exactness = make("small", { class: "precision" });
    const choice = make("p", { class: "choice" });
    if (view.layers?.length > 1) {
      const select = make("select", { "aria-label": `${view.title}: which` },
        ...view.layers.map(({ label }, at) => make("option", { value: at }, label)));
      select.addEventListener("change", () => {
        layer = Number(select.value);
        load();
      });
      choice.append(select);
    } else choice.append(view.layers?.[0]?.label ?? "");
    panes.append(shown[0].element);
    element.append(choice, panes, make("p", { class: "caption" }, view.caption || "", " ", exactness));

    const panel = { element, draw, follow: () => draw(false), onsight: () => panel.seen && !arrays && load(),
      print: () => arrays && draw(), reserve: () => shown[0].picture.reserve?.() };

    async function load() {
      const wanted = layer;
      try {
        const needed = kind.arrays(view, layer);
        const found = await Promise.all(needed.map((meta) => (meta ? decode(meta) : null)));
        if (wanted !== layer) return;
        arrays = found;
        exactness.textContent = precision(needed[0]);
        redraw(panel);
      } catch (error) {
        panes.replaceChildren(make("p", { class: "note" }, `This picture could not be read: ${error.message}`));
      }
    }

    function stand(one, row) {
      const at = arrays[0].standsAt(row);
      const name = one === shown[0] ? "" : "A: ";
      const snapped = at === row ? "" : ` (nearest kept to ${whole(time.steps[row])})`;
      one.stand.textContent = `${name}step ${whole(time.steps[at])}${snapped}`;
    }

    function draw(everything = true) {
      if (!arrays) return;
      const pinned = time.pinned !== null;
      const second = pinned && !kind.overlays;
      if (second && shown.length === 1) shown.push(pane(kind, view, "pinned"));
      if (shown[1] && second !== shown[1].element.isConnected) {
        if (second) panes.prepend(shown[1].element);
        else shown[1].element.remove();
      }
      panes.classList.toggle("two", second);
      element.classList.toggle("paired", second);
      const options = { view, arrays, layer, measure: everything };
      shown[0].picture.paint({ ...options, row: time.row, pinned: kind.overlays ? time.pinned : null });
      stand(shown[0], time.row);
      if (pinned && kind.overlays) {
        const at = arrays[0].standsAt(time.pinned);
        shown[0].stand.textContent += ` · hollow: A, step ${whole(time.steps[at])}`;
      }
      // the pinned picture stays as it is while the time moves
      if (second && (everything || shown[1].row !== time.pinned)) {
        shown[1].picture.paint({ ...options, row: time.pinned, pinned: null });
        stand(shown[1], time.pinned);
        shown[1].row = time.pinned;
      }
    }
    addPanel(panel);
    unread.push(() => arrays || load());
  }

  const unread = [];
  // Arrays are unpacked when the browser has nothing else to do, so that what was never on the screen can be printed.
  function readAhead() {
    const next = unread.shift();
    if (next) idle(() => Promise.resolve(next()).then(readAhead));
    else document.documentElement.dataset.read = "";
  }
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));

  Object.assign(grokscope, { kinds, addView, ready, canvas, missing, UNDEFINED, readAhead, WIDEST });
}
