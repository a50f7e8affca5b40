// What is drawn and when: a panel is drawn when it is first seen, and follows the time while it is on the screen.
{
  const panels = new Map();
  let waiting = false;
  let moved = false;

  // A panel has `element`, `draw()` for everything, and `follow()` for what moves with the time.
  function addPanel(panel) {
    panels.set(panel.element, Object.assign(panel, { seen: false, stale: true, row: -1 }));
    sight.observe(panel.element);
    size.observe(panel.element);
  }

  function redraw(panel) {
    if (panel) panel.stale = true;
    else for (const each of panels.values()) each.stale = true;
    schedule(false);
  }

  // One drawing a frame of the screen, however many moves came in between.
  function schedule(byTime) {
    moved ||= byTime;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(update);
  }

  function update() {
    waiting = false;
    const began = performance.now();
    const time = grokscope.time;
    let drawn = 0;
    for (const panel of panels.values()) {
      if (!panel.seen) continue;
      if (panel.stale) panel.draw();
      else if (panel.row !== time.row) panel.follow();
      else continue;
      drawn++;
      panel.stale = false;
      panel.row = time.row;
    }
    if (!moved) return;
    moved = false;
    const detail = { step: time.step, row: time.row, panels: drawn, milliseconds: performance.now() - began };
    document.dispatchEvent(new CustomEvent("grokscope:step", { detail }));
  }

  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.get(entry.target);
      panel.seen = entry.isIntersecting;
      panel.onsight?.();
    }
    schedule(false);
  }, { rootMargin: "120px" });

  const size = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.get(entry.target);
      const width = Math.round(entry.contentRect.width);
      if (panel.width === width) continue;
      panel.width = width;
      panel.stale = true;
      if (!panel.seen) panel.reserve?.(); // so that nothing below moves when it is drawn
    }
    schedule(false);
  });

  function recolour() {
    grokscope.forgetColours();
    redraw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  // paper is white: canvases are drawn in the light theme's colours before the page is printed
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    grokscope.forgetColours();
    for (const panel of panels.values()) panel.print?.();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    recolour();
  });

  Object.assign(grokscope, { addPanel, redraw, schedule });
}
