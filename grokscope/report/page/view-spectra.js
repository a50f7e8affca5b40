// Views with axes: bars, singular values, neurons by frequency, phases.
{
  const { kinds, canvas, ready, missing, UNDEFINED, colour, number, valueAxis, linearTicks } = grokscope;
  const TURN = Math.PI;

  // One canvas that `paint` fills; `describe` gives it its words.
  function onCanvas(shape, paint, describe) {
    return (view, holder) => {
      const aspect = typeof shape === "function" ? shape(view) : shape;
      const element = canvas(view.title);
      holder.append(element);
      return {
        reserve: () => ready(element, aspect),
        paint(options) {
          const plot = ready(element, aspect, options.measure);
          paint(plot, options);
          element.setAttribute("aria-label", `${view.title}: ${describe(options)}`);
        },
      };
    };
  }

  function frame({ context, width, height }, { left = 44, foot = 38, top = 16, right = 10 } = {}) {
    const [wide, high] = [width - right - left, height - foot - top];
    return { context, left, right: width - right, top, foot: height - foot, wide, high };
  }

  function valueTicks(box, axis) {
    const { context, left, right, top, foot, high } = box;
    context.lineWidth = 1;
    for (const { value, label } of axis.ticks) {
      const at = foot - axis.place(value) * high;
      if (at < top - 1 || at > foot + 1) continue;
      context.strokeStyle = colour("--rule");
      context.beginPath();
      context.moveTo(left, Math.round(at) + 0.5);
      context.lineTo(right, Math.round(at) + 0.5);
      context.stroke();
      context.fillStyle = colour("--soft");
      context.textAlign = "right";
      context.fillText(label, left - 6, at + 4);
    }
  }

  function names(box, xlabel, ylabel) {
    const { context, left, right, top, foot } = box;
    context.fillStyle = colour("--soft");
    context.textAlign = "left";
    context.fillText(ylabel || "", left - 36, 11);
    context.textAlign = "center";
    context.fillText(xlabel || "", (left + right) / 2, foot + 33);
  }

  // Text that stands out from what it lies over.
  function haloed(context, text, x, y) {
    context.strokeStyle = colour("--paper");
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }

  function highest(values, count) {
    const order = Array.from(values.keys()).filter((at) => values[at] > 0);
    return order.sort((one, other) => values[other] - values[one]).slice(0, count);
  }

  const top = (meta) => Math.max(...[meta.high].flat());
  const bottom = (meta) => Math.min(...[meta.low].flat());

  const flatWhenMany = (view) => (view.labels.length > 150 ? 0.6 : 0.9);

  kinds.bars = {
    overlays: true,
    arrays: (view, layer) => [view.layers[layer].values],
    picture: onCanvas(flatWhenMany, (plot, { view, arrays: [frames], row, pinned }) => {
      const axis = valueAxis({ ylim: [0, top(frames.meta) * 1.08 || 1], yscale: "linear" }, 5);
      const box = frame(plot);
      const { context, left, right, foot, wide, high } = box;
      valueTicks(box, axis);
      const values = frames.values(frames.index(row));
      const slot = wide / values.length;
      const bar = Math.max(1, slot * (slot > 5 ? 0.72 : 0.86));
      const x = (at) => left + (at + 0.5) * slot;
      if (values.every(Number.isNaN)) missing(plot, box);
      context.fillStyle = colour("--c1");
      values.forEach((value, at) => {
        if (Number.isNaN(value)) return;
        const size = axis.place(value) * high;
        context.fillRect(x(at) - bar / 2, foot - size, bar, size);
      });
      if (pinned !== null) {
        context.strokeStyle = colour("--ink");
        context.lineWidth = 1.2;
        context.beginPath();
        frames.values(frames.index(pinned), 1).forEach((value, at) => {
          if (Number.isNaN(value)) return;
          const size = axis.place(value) * high;
          if (slot >= 4) context.rect(x(at) - bar / 2 - 0.5, foot - size, bar + 1, size);
          else context.lineTo(x(at), foot - size); // boxes so narrow would be one black block
        });
        context.stroke();
      }
      if (view.chance !== null && view.chance !== undefined) {
        const at = foot - axis.place(view.chance) * high;
        context.strokeStyle = colour("--soft");
        context.lineWidth = 1;
        context.setLineDash([4, 3]);
        context.beginPath();
        context.moveTo(left, at);
        context.lineTo(right, at);
        context.stroke();
        context.setLineDash([]);
        context.fillStyle = colour("--soft");
        context.textAlign = "right";
        haloed(context, "chance", right, at - 4);
      }
      context.fillStyle = colour("--ink");
      context.textAlign = "center";
      const taken = [];
      for (const at of highest(values, 5)) {
        if (taken.some((other) => Math.abs(x(other) - x(at)) < 18)) continue;
        taken.push(at);
        context.fillText(view.labels[at], x(at), foot - axis.place(values[at]) * high - 4);
      }
      context.fillStyle = colour("--soft");
      for (const place of linearTicks(0, values.length - 1, Math.max(2, wide / 60))) {
        if (Number.isInteger(place)) context.fillText(view.labels[place], x(place), foot + 16);
      }
      names(box, view.xlabel, view.ylabel);
    }, ({ view, arrays: [frames], row }) => {
      const values = frames.values(frames.index(row));
      if (values.every(Number.isNaN)) return UNDEFINED;
      return `highest at ${highest(values, 3).map((at) => `${view.labels[at]} (${number(values[at])})`).join(", ")}`;
    }),
  };

  // Where there are many values only some are carried, and each keeps its rank.
  const ranksOf = (view, layer, count) =>
    view.layers[layer].ranks ?? Array.from({ length: count }, (_, at) => at + 1);

  kinds.values = {
    overlays: true,
    arrays: (view, layer) => [view.layers[layer].values],
    picture: onCanvas(0.72, (plot, { view, layer, arrays: [frames], row, pinned }) => {
      const ranks = ranksOf(view, layer, frames.size);
      const power = frames.meta.scale === "log10" ? (value) => 10 ** value : (value) => value;
      const ends = [power(bottom(frames.meta)), power(top(frames.meta))];
      const axis = valueAxis({ ylim: [ends[0] / 1.3, ends[1] * 1.3], yscale: ends[0] > 0 ? "log" : "linear" }, 5);
      const box = frame(plot, { left: 54 });
      const { context, left, foot, wide, high } = box;
      valueTicks(box, axis);
      const slot = wide / ranks.at(-1);
      const dots = (values, hollow) => {
        context.beginPath();
        values.forEach((value, at) => {
          if (!(value > 0)) return; // zero, or below what the array can tell apart
          const [x, y] = [left + (ranks[at] - 0.5) * slot, foot - axis.place(value) * high];
          context.moveTo(x + 3.2, y);
          context.arc(x, y, 3.2, 0, 2 * TURN);
        });
        if (hollow) context.stroke();
        else context.fill();
      };
      const values = frames.values(frames.index(row));
      if (!values.some((value) => value > 0)) missing(plot, box);
      context.fillStyle = colour("--c1");
      dots(values, false);
      if (pinned !== null) {
        context.strokeStyle = colour("--ink");
        context.lineWidth = 1.2;
        dots(frames.values(frames.index(pinned), 1), true);
      }
      context.fillStyle = colour("--soft");
      context.textAlign = "center";
      for (const rank of linearTicks(1, ranks.at(-1), Math.max(2, wide / 60))) {
        if (Number.isInteger(rank)) context.fillText(rank, left + (rank - 0.5) * slot, foot + 16);
      }
      names(box, "rank", view.ylabel);
    }, ({ view, layer, arrays: [frames], row }) => {
      const [values, ranks] = [frames.values(frames.index(row)), ranksOf(view, layer, frames.size)];
      const said = [0, Math.floor(values.length / 2), values.length - 1].map((at) =>
        `rank ${ranks[at]}: ${number(values[at])}`);
      return [...new Set(said)].join(", ");
    }),
  };

  // The same sideways shift for a neuron at every step, so that a dot that moves is a neuron that moved.
  const jitter = (neuron) => ((Math.imul(neuron + 1, 2654435761) >>> 8) % 1000) / 1000 - 0.5;

  kinds.neurons = {
    arrays: (view) => [view.frequency, view.share],
    picture: onCanvas(0.66, (plot, { view, arrays: [frequency, share], row }) => {
      const axis = valueAxis({ ylim: [0, 1.02], yscale: "linear" }, 5);
      const box = frame(plot, { top: 28 });
      const { context, left, foot, wide, high } = box;
      valueTicks(box, axis);
      const slot = wide / (view.n_frequencies + 1);
      const x = (place) => left + (place + 0.5) * slot;
      const which = frequency.raw(frequency.index(row));
      const shares = share.values(share.index(row));
      const counts = new Map();
      context.fillStyle = colour("--c1");
      context.globalAlpha = 0.75;
      context.beginPath();
      if (shares.every(Number.isNaN)) missing(plot, box);
      for (let neuron = 0; neuron < which.length; neuron++) {
        if (which[neuron] > frequency.top || Number.isNaN(shares[neuron])) continue;
        counts.set(which[neuron], (counts.get(which[neuron]) ?? 0) + 1);
        const [across, up] = [x(which[neuron] + 0.7 * jitter(neuron)), foot - axis.place(shares[neuron]) * high];
        context.moveTo(across + 2.2, up);
        context.arc(across, up, 2.2, 0, 2 * TURN);
      }
      context.fill();
      context.globalAlpha = 1;
      context.fillStyle = colour("--soft");
      context.textAlign = "center";
      for (const place of linearTicks(1, view.n_frequencies, Math.max(2, wide / 60))) {
        if (Number.isInteger(place)) context.fillText(place, x(place), foot + 16);
      }
      if (counts.has(0)) context.fillText("none", x(0), foot + 16);
      context.fillStyle = colour("--ink");
      // how many neurons the fullest columns hold, above them
      const most = [...counts].filter(([place]) => place > 0).sort((one, other) => other[1] - one[1]).slice(0, 6);
      const taken = [];
      for (const [place, count] of most) {
        if (taken.some((other) => Math.abs(other - x(place)) < 22)) continue;
        taken.push(x(place));
        haloed(context, count, x(place), box.top - 2);
      }
      names(box, view.xlabel || "frequency", view.ylabel || "share of the neuron's variance");
    }, ({ arrays: [frequency], row }) => {
      const which = frequency.raw(frequency.index(row)).filter((place) => place <= frequency.top);
      return `${which.length} neurons at ${new Set(which).size} frequencies`;
    }),
  };

  kinds.phases = {
    arrays: (view) => [view.x, view.y, view.weight],
    picture: onCanvas(0.95, (plot, { view, arrays: [xs, ys, weights], row }) => {
      const box = frame(plot, { left: 44, right: 14 });
      const { context, left, right, top: head, foot, wide, high } = box;
      const ends = [[-TURN, "−π"], [-TURN / 2, "−π/2"], [0, "0"], [TURN / 2, "π/2"], [TURN, "π"]];
      const place = (angle) => (angle + TURN) / (2 * TURN);
      valueTicks(box, { place, ticks: ends.map(([value, label]) => ({ value, label })) });
      context.fillStyle = colour("--soft");
      context.textAlign = "center";
      for (const [angle, label] of ends) context.fillText(label, left + place(angle) * wide, foot + 16);
      context.strokeStyle = colour("--soft");
      context.setLineDash([4, 3]);
      context.beginPath();
      context.moveTo(left, foot);
      context.lineTo(right, head);
      context.stroke();
      context.setLineDash([]);
      const [x, y] = [xs.values(xs.index(row)), ys.values(ys.index(row))];
      const weight = weights ? weights.values(weights.index(row)) : null;
      if (x.every(Number.isNaN)) missing(plot, box);
      context.fillStyle = colour("--c4");
      context.globalAlpha = 0.75;
      context.beginPath();
      for (let neuron = 0; neuron < x.length; neuron++) {
        if (Number.isNaN(x[neuron] + y[neuron])) continue;
        const radius = weight ? 0.8 + 3 * Math.sqrt(Math.max(0, weight[neuron])) : 2.2;
        const [across, up] = [left + place(x[neuron]) * wide, foot - place(y[neuron]) * high];
        context.moveTo(across + radius, up);
        context.arc(across, up, radius, 0, 2 * TURN);
      }
      context.fill();
      context.globalAlpha = 1;
      names(box, view.xlabel, view.ylabel);
    }, ({ arrays: [xs, ys], row }) => {
      const [x, y] = [xs.values(xs.index(row)), ys.values(ys.index(row))];
      if (x.every(Number.isNaN)) return UNDEFINED;
      let near = 0;
      for (let at = 0; at < x.length; at++) if (Math.cos(x[at] - y[at]) > Math.cos(TURN / 8)) near++;
      return `${near} of ${x.length} neurons within π/8 of the diagonal`;
    }),
  };
}
