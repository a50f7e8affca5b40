// The answer grid: every (a, b), right or wrong; a dot in it says that the pair is in the training set.
{
  const { make, kinds, canvas, colour, WIDEST } = grokscope;

  function rgb(variable) {
    const value = colour(variable);
    const long = value.length === 4 ? value.replace(/[0-9a-f]/gi, "$&$&") : value; // #fff is #ffffff
    return [1, 3, 5].map((at) => parseInt(long.slice(at, at + 2), 16));
  }
  const blend = (one, other, share) => one.map((part, at) => Math.round(part + (other[at] - part) * share));
  const packed = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red;

  function colours() {
    const [paper, ink, right] = [rgb("--paper"), rgb("--ink"), rgb("--c1")];
    return {
      right: packed(blend(right, paper, 0.08)), onRight: packed(paper),
      wrong: packed(blend(paper, ink, 0.09)), onWrong: packed(blend(ink, paper, 0.25)),
    };
  }

  function key(train) {
    const sample = (state, text) =>
      make("li", {}, make("span", { class: `cell ${state}`, "aria-hidden": "true" }), text);
    return make("ul", { class: "key" }, sample("right", train ? "test, right" : "right"),
      sample("wrong", train ? "test, wrong" : "wrong"),
      ...(train ? [sample("right train", "training, right"), sample("wrong train", "training, wrong")] : []));
  }

  kinds.answers = {
    arrays: (view) => [view.right, view.train],
    picture(view, holder, which) {
      const { p } = view;
      const element = canvas("");
      const name = which === "pinned" ? "Answers at the pinned step" : "Answers";
      const readout = make("output", { class: "readout" }, "Point at a pair, or use the arrow keys.");
      element.tabIndex = 0;
      holder.append(make("div", { class: "frame" }, element), readout, key(view.train));
      const spot = { a: 0, b: 0, chosen: false };
      let latest = null;
      let image = null;
      let cell = 3;
      let paints = null;
      let shown = null; // the bits that the image shows now, and how many of them are right
      let hits = 0;

      function say() {
        if (!latest || !spot.chosen) return;
        const { right, train, index } = latest;
        const { a, b } = spot;
        const isTrain = (x, y) => Boolean(train?.bit(0, x * p + y));
        const verdict = right.bit(index, a * p + b) ? "right" : "wrong";
        const parts = [train ? (isTrain(a, b) ? "training" : "test") : "", verdict];
        const mirrored = view.mirrored && a !== b && !isTrain(a, b) && isTrain(b, a);
        readout.textContent = `a=${a}, b=${b}: ${parts.filter(Boolean).join(", ")}` +
          (mirrored ? `; mirrored pair (${b}, ${a}) in training` : "");
      }

      function choose(a, b) {
        Object.assign(spot, { a: Math.max(0, Math.min(p - 1, a)), b: Math.max(0, Math.min(p - 1, b)), chosen: true });
        say();
        mark();
      }

      // The chosen pair is framed, its mirror image more faintly.
      function mark() {
        if (!image) return;
        const context = element.getContext("2d");
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.putImageData(image, 0, 0);
        if (!spot.chosen) return;
        const box = (a, b, style) => {
          context.strokeStyle = style;
          context.lineWidth = Math.max(1.5, cell / 4);
          context.strokeRect(b * cell - 1.5, a * cell - 1.5, cell + 3, cell + 3);
        };
        if (view.mirrored && spot.a !== spot.b) box(spot.b, spot.a, colour("--c5"));
        box(spot.a, spot.b, colour("--c2"));
      }

      element.addEventListener("pointermove", (event) => {
        const { left, top, width } = element.getBoundingClientRect();
        choose(Math.floor(((event.clientY - top) / width) * p), Math.floor(((event.clientX - left) / width) * p));
      });
      element.addEventListener("keydown", (event) => {
        const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!move) return;
        event.preventDefault();
        choose(spot.a + (spot.chosen ? move[0] : 0), spot.b + (spot.chosen ? move[1] : 0));
      });

      // A whole number of the screen's pixels a pair, so that all pairs are of one size.
      function extent() {
        const dense = Math.min(3, devicePixelRatio || 1);
        cell = Math.max(3, Math.floor((Math.min(WIDEST, holder.clientWidth) * dense) / p));
        const side = cell * p;
        if (element.width !== side) element.width = element.height = side;
        element.style.width = `${Math.min(side / dense, holder.clientWidth)}px`;
        return side;
      }

      function paintPair(pixels, side, paints, at, good, marked) {
        const base = good ? paints.right : paints.wrong;
        const corner = Math.floor(at / p) * cell * side + (at % p) * cell;
        for (let y = 0; y < cell; y++) pixels.fill(base, corner + y * side, corner + y * side + cell);
        if (!marked) return;
        const inset = Math.max(1, Math.round(cell * 0.32));
        const dot = good ? paints.onRight : paints.onWrong;
        for (let y = inset; y < cell - inset; y++) {
          pixels.fill(dot, corner + y * side + inset, corner + y * side + cell - inset);
        }
      }

      // Eight pairs to a byte: of two steps only the bytes that differ are looked into.
      function paint({ arrays: [right, train], row, measure }) {
        const index = right.index(row);
        const bytes = right.raw(index);
        const fresh = measure || !image;
        if (fresh) {
          const side = extent();
          if (image?.width !== side) image = new ImageData(side, side);
          paints = colours();
          shown = new Uint8Array(bytes.length);
        }
        const pixels = new Uint32Array(image.data.buffer);
        hits = fresh ? 0 : hits;
        for (let byte = 0; byte < bytes.length; byte++) {
          const differing = fresh ? 255 : bytes[byte] ^ shown[byte];
          if (!differing) continue;
          for (let place = 0; place < 8; place++) {
            const at = 8 * byte + place;
            const bit = 128 >> place;
            if (!(differing & bit) || at >= p * p) continue;
            const good = (bytes[byte] & bit) !== 0;
            hits += good ? 1 : fresh ? 0 : -1;
            paintPair(pixels, image.width, paints, at, good, train?.bit(0, at));
          }
        }
        shown.set(bytes);
        latest = { right, train, index };
        mark();
        say();
        const share = ((100 * hits) / (p * p)).toFixed(1);
        element.setAttribute("aria-label", `${name}: ${share} % of the ${p} by ${p} pairs right; a down, b across`);
      }
      return { paint, reserve: extent };
    },
  };
}
