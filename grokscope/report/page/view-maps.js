// Views without axes of numbers: the embedding in a plane, a matrix as a map, shares as one bar.
{
  const { make, kinds, canvas, colour, number, ready, missing, UNDEFINED } = grokscope;

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = () => document.documentElement.classList.contains("printing");

  // Residues go round, and so do their colours, at one lightness.
  function residueColours(count) {
    const light = dark.matches && !printing() ? 0.76 : 0.58;
    return Array.from({ length: count }, (_, at) => `oklch(${light} 0.13 ${((360 * at) / count + 20).toFixed(1)})`);
  }

  function note(view, layer, row, index) {
    const { note: notes } = view.layers[layer];
    if (!notes) return "";
    return (typeof notes === "string" ? notes : notes[row] ?? notes[index]) || "";
  }

  kinds.plane = {
    arrays: (view, layer) => [view.layers[layer].points, view.layers[layer].extent],
    picture(view, holder) {
      const element = canvas(view.title);
      const words = make("p", { class: "readout" });
      holder.append(element, words);
      let hues = null;
      let coloured = -1;
      return {
        reserve: () => ready(element, 1),
        paint({ arrays: [frames, extents], layer, row, measure }) {
          const plot = ready(element, 1, measure);
          const { context, width, height } = plot;
          const index = frames.index(row);
          const points = frames.values(index);
          if (points.some(Number.isNaN)) {
            missing(plot);
            words.textContent = "";
            element.setAttribute("aria-label", `${view.title}: ${view.layers[layer].label}, ${UNDEFINED}`);
            return;
          }
          const count = frames.size / 2;
          const half = width / 2 - 18;
          const x = (at) => width / 2 + points[2 * at] * half;
          const y = (at) => height / 2 - points[2 * at + 1] * half;
          context.strokeStyle = colour("--rule");
          context.lineWidth = 1;
          context.beginPath();
          const [across, down] = [Math.floor(width / 2) + 0.5, Math.floor(height / 2) + 0.5];
          context.moveTo(0, down);
          context.lineTo(width, down);
          context.moveTo(across, 0);
          context.lineTo(across, height);
          context.stroke();
          context.strokeStyle = colour("--soft");
          context.globalAlpha = 0.28;
          context.lineWidth = 0.8;
          context.beginPath();
          const order = view.layers[layer].order || [...Array(count).keys()];
          for (const at of order) context.lineTo(x(at), y(at));
          context.stroke();
          context.globalAlpha = 1;
          if (measure || !hues || coloured !== layer) {
            // a colour is a place in the order in which the points are joined
            const wheel = residueColours(count);
            hues = [];
            order.forEach((at, place) => { hues[at] = wheel[place]; });
            coloured = layer;
          }
          const radius = count > 150 ? 2.4 : 3.6;
          for (let at = 0; at < count; at++) {
            context.fillStyle = hues[at];
            context.beginPath();
            context.arc(x(at), y(at), radius, 0, 2 * Math.PI);
            context.fill();
          }
          context.fillStyle = colour("--ink");
          context.strokeStyle = colour("--paper");
          context.lineWidth = 3;
          context.textAlign = "center";
          for (let at = 0; at < count; at += Math.max(1, Math.round(count / 12))) {
            // numbers stand outside their points, away from the centre
            const [dx, dy] = [x(at) - width / 2, y(at) - height / 2];
            const size = Math.hypot(dx, dy) || 1;
            const [left, foot] = [x(at) + (12 * dx) / size, y(at) + (12 * dy) / size + 4];
            context.strokeText(view.labels[at], left, foot);
            context.fillText(view.labels[at], left, foot);
          }
          const extent = extents ? extents.values(0)[extents.size === frames.count ? index : row] : NaN;
          const scale = Number.isFinite(extent) ? `half width ${number(extent)}` : "";
          words.textContent = [note(view, layer, row, index), scale].filter(Boolean).join("; ");
          element.setAttribute("aria-label", `${view.title}: ${view.layers[layer].label}, ${words.textContent}`);
        },
      };
    },
  };

  // Colours from a few stops, evenly spaced: dark to bright for sizes, two hues about white for signs.
  const SIZES = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const SIGNS = [[31, 111, 180], [146, 190, 224], [247, 247, 245], [235, 160, 168], [190, 50, 70]];
  function ramp(stops) {
    return Uint32Array.from({ length: 256 }, (_, level) => {
      const place = (level / 255) * (stops.length - 1);
      const at = Math.min(stops.length - 2, Math.floor(place));
      const [red, green, blue] = stops[at].map((part, which) =>
        Math.round(part + (stops[at + 1][which] - part) * (place - at)));
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
  }
  const RAMPS = { false: ramp(SIZES), true: ramp(SIGNS) };

  kinds.matrix = {
    arrays: (view, layer) => [view.layers[layer].values],
    picture(view, holder) {
      const element = canvas(view.title);
      const [low, high] = [make("span"), make("span")];
      const look = view.diverging ? "signs" : "sizes";
      const bar = make("p", { class: `ramp ${look}` }, low, make("i", { "aria-hidden": "true" }), high);
      const sides = make("p", { class: "sides" }, `${view.rows || "row"} down, ${view.cols || "column"} across`);
      holder.append(element, sides, bar);
      const small = document.createElement("canvas");
      const { shape } = view.layers[0].values;
      return {
        reserve: () => ready(element, shape[1] / shape[2]),
        paint({ arrays: [frames], row, measure }) {
          const [, rows, cols] = frames.meta.shape;
          const index = frames.index(row);
          const [from, to] = [frames.limit("low", index), frames.limit("high", index)];
          const levels = frames.raw(index);
          // signs are shown about zero: the larger of the two ends is full colour on both sides
          const most = Math.max(Math.abs(from), Math.abs(to)) || 1;
          const [first, last] = view.diverging ? [-most, most] : [from, to];
          const scale = last > first ? (to - from) / (last - first) : 1;
          const shift = last > first ? (255 * (from - first)) / (last - first) : 0;
          const unit = (255 * scale) / frames.top;
          const table = RAMPS[Boolean(view.diverging)];
          small.width = cols;
          small.height = rows;
          const image = new ImageData(cols, rows);
          const pixels = new Uint32Array(image.data.buffer);
          let gone = false;
          for (let at = 0; at < levels.length; at++) {
            if (levels[at] > frames.top) gone = true; // the pixel stays clear
            else pixels[at] = table[Math.round(shift + unit * levels[at])];
          }
          small.getContext("2d").putImageData(image, 0, 0);
          const plot = ready(element, rows / cols, measure);
          const { context, width, height } = plot;
          if (gone) missing(plot);
          context.imageSmoothingEnabled = false;
          context.drawImage(small, 0, 0, width, height);
          low.textContent = number(first);
          high.textContent = number(last);
          const range = `from ${number(from)} to ${number(to)}${gone ? `, in parts ${UNDEFINED}` : ""}`;
          element.setAttribute("aria-label", `${view.title}: ${rows} by ${cols}, ${range}`);
        },
      };
    },
  };

  kinds.shares = {
    arrays: (view) => [view.values],
    picture(view, holder) {
      const parts = view.labels.map((label, at) => {
        const hue = `var(--c${(at % 8) + 1})`;
        const segment = make("span", {});
        const swatch = make("i", { "aria-hidden": "true" });
        segment.style.background = hue;
        swatch.style.background = hue;
        const value = make("b");
        return { segment, value, item: make("li", {}, swatch, make("span", {}, label), value) };
      });
      holder.append(make("div", { class: "stacked", "aria-hidden": "true" }, ...parts.map(({ segment }) => segment)),
        make("ul", { class: "parts" }, ...parts.map(({ item }) => item)));
      return {
        paint({ arrays: [frames], row }) {
          const values = frames.values(frames.index(row));
          parts.forEach(({ segment, value }, at) => {
            const there = Number.isFinite(values[at]);
            segment.style.flexGrow = there ? values[at] : 0;
            value.textContent = there ? `${(100 * values[at]).toFixed(1)} %` : UNDEFINED;
          });
        },
      };
    },
  };
}
