// Printed figures over time that are not redrawn (heat maps, mixed ones): the cursor is laid over them.
{
  const { draw, drag, cursor } = grokscope;

  // Where a step lies on a printed axis, from 0 to 1, and back: linear near 0 if the axis is logarithmic.
  function printedScale(axes) {
    const [low, high] = axes.xlim;
    const threshold = axes.linthresh || 1;
    const room = (axes.linscale ?? 1) / 0.9;
    const bend = (step) => {
      if (axes.xscale !== "symlog") return step;
      const size = Math.abs(step);
      const bent = size <= threshold ? (size / threshold) * room : room + Math.log10(size / threshold);
      return Math.sign(step) * bent;
    };
    const [from, to] = [bend(low), bend(high)];
    return (step) => (bend(step) - from) / (to - from);
  }

  function rowAt(time, place, scale) {
    let best = 0;
    for (let row = 1; row < time.steps.length; row++) {
      if (Math.abs(scale(time.steps[row]) - place) < Math.abs(scale(time.steps[best]) - place)) best = row;
    }
    return best;
  }

  // A panel that moves cursors over the printed figure `svg`, in the units of its own view box.
  function printedPanel(svg, chart) {
    const { time } = grokscope;
    const drawn = chart.axes.filter((axes) => axes.time).map((axes) => {
      const [x0, y0, x1, y1] = axes.rect;
      const [present, pinned] = [cursor("present"), cursor("pinned")];
      for (const group of [present, pinned]) {
        group.firstChild.setAttribute("y1", y0);
        group.firstChild.setAttribute("y2", y1);
      }
      pinned.append(draw("text", { y: y0 + 9, x: -4, "text-anchor": "end" }, "A"));
      svg.append(pinned, present);
      return { present, pinned, scale: printedScale(axes), x0, x1, y0, y1 };
    });
    function follow() {
      for (const { present, pinned, scale, x0, x1 } of drawn) {
        for (const [group, row] of [[present, time.row], [pinned, time.pinned]]) {
          group.setAttribute("visibility", row === null ? "hidden" : "visible");
          if (row === null) continue;
          const place = scale(time.steps[row]);
          group.setAttribute("transform", `translate(${(x0 + place * (x1 - x0)).toFixed(1)} 0)`);
        }
      }
    }
    // the axes under the pointer; each may have a scale of its own, so the row is found here
    const at = (event) => {
      const { left, top, width } = svg.getBoundingClientRect();
      const box = svg.viewBox.baseVal;
      const unit = box.width / width;
      const [x, y] = [box.x + (event.clientX - left) * unit, box.y + (event.clientY - top) * unit];
      const axes = drawn.find((one) => x >= one.x0 - 4 && x <= one.x1 + 4 && y >= one.y0 && y <= one.y1);
      if (!axes) return null;
      const row = rowAt(time, (x - axes.x0) / (axes.x1 - axes.x0), axes.scale);
      return time.place(time.steps[row]);
    };
    drag(svg, at);
    return { element: svg, draw: follow, follow };
  }

  // What a printed figure holds beside the axes that are drawn anew: a heat map, its colour bar. A figure is a group of
  // groups, the sheet first, then one for each axes. Null where the groups cannot be told apart.
  function restOf(svg, live) {
    const groups = [...(svg.querySelector(":scope > g")?.children ?? [])].slice(1)
      .map((group) => ({ group, box: group.getBBox() }));
    const anew = new Set();
    for (const { rect: [x0, y0, x1, y1] } of live) {
      const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
      const around = groups.filter(({ box }) =>
        x > box.x && x < box.x + box.width && y > box.y && y < box.y + box.height);
      if (around.length !== 1) return null;
      anew.add(around[0]);
    }
    return groups.filter((one) => !anew.has(one));
  }

  // A copy of the figure that shows those groups only; the figure itself stays for paper.
  function cutOut(svg, rest, name) {
    const keep = new Set(rest.map(({ group }) => [...group.parentElement.children].indexOf(group)));
    const part = svg.cloneNode(true);
    part.querySelectorAll("title, desc, defs").forEach((element) => element.remove());
    [...part.querySelector("g").children].forEach((group, at) => keep.has(at) || group.remove());
    const boxes = rest.map(({ box }) => box);
    const [left, top] = ["x", "y"].map((side) => Math.max(0, Math.min(...boxes.map((box) => box[side])) - 2));
    const width = Math.max(...boxes.map((box) => box.x + box.width)) + 2 - left;
    const height = Math.max(...boxes.map((box) => box.y + box.height)) + 2 - top;
    part.setAttribute("viewBox", [left, top, width, height].map((side) => side.toFixed(1)).join(" "));
    part.setAttribute("aria-label", name);
    part.removeAttribute("aria-labelledby");
    part.removeAttribute("data-figure");
    part.style.maxWidth = `${(width / 10).toFixed(1)}rem`;
    part.classList.add("part");
    return part;
  }

  Object.assign(grokscope, { printedPanel, restOf, cutOut });
}
