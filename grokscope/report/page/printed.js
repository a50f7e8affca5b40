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
      const unit = svg.viewBox.baseVal.width / width;
      const [x, y] = [(event.clientX - left) * unit, (event.clientY - top) * unit];
      const axes = drawn.find((one) => x >= one.x0 - 4 && x <= one.x1 + 4 && y >= one.y0 && y <= one.y1);
      if (!axes) return null;
      const row = rowAt(time, (x - axes.x0) / (axes.x1 - axes.x0), axes.scale);
      return time.place(time.steps[row]);
    };
    drag(svg, at);
    return { element: svg, draw: follow, follow };
  }

  Object.assign(grokscope, { printedPanel });
}
