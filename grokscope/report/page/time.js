// The one time axis of the page: where it stands, what is pinned, and how steps lie on it.
{
  const LINEAR_SCALE = 0.4; // as in the printed figures: steps below the first one saved take 0.4 decades

  class Time {
    constructor(steps, last, events) {
      this.steps = steps;
      this.last = Math.max(last, steps[steps.length - 1], 1);
      this.events = events;
      this.threshold = Math.max(1, steps.find((step) => step > 0) ?? 1);
      this.breaks = this.#breaks();
      this.scale = this.last >= 100 ? "log" : "linear";
      this.row = steps.length - 1;
      this.pinned = null;
      this.listeners = [];
    }

    get step() { return this.steps[this.row]; }

    // Ends of the stretches that the aligned axis gives equal room: start, fit, grok, end.
    #breaks() {
      const ends = this.events.filter((event) => ["fit", "grok"].includes(event.name)).map((event) => event.by);
      const inside = [...new Set(ends)].filter((step) => step > 0 && step < this.last).sort((a, b) => a - b);
      return [0, ...inside, this.last];
    }

    get scales() {
      return [["log", "logarithmic"], ["linear", "linear"],
        ...(this.breaks.length > 2 ? [["events", "around events"]] : [])];
    }

    #logarithm(step) {
      const room = LINEAR_SCALE / 0.9;
      if (step <= this.threshold) return (step / this.threshold) * room;
      return room + Math.log10(step / this.threshold);
    }

    // Where a step lies on the axis, from 0 to 1.
    place(step) {
      if (this.scale === "linear") return step / this.last;
      if (this.scale === "log") return this.#logarithm(step) / this.#logarithm(this.last);
      const pieces = this.breaks.length - 1;
      let piece = 0;
      while (piece < pieces - 1 && step > this.breaks[piece + 1]) piece++;
      const [from, to] = [this.breaks[piece], this.breaks[piece + 1]];
      return (piece + (step - from) / (to - from)) / pieces;
    }

    // The save nearest to a place on the axis, as the eye sees it.
    rowAt(place) {
      return this.#nearest(place, (row) => this.place(this.steps[row]));
    }

    rowOf(step) {
      return this.#nearest(step, (row) => this.steps[row]);
    }

    #nearest(wanted, at) {
      let [low, high] = [0, this.steps.length - 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (at(middle) <= wanted) low = middle;
        else high = middle;
      }
      return wanted - at(low) <= at(high) - wanted ? low : high;
    }

    // Between which events a save lies, in words.
    phase(row) {
      const [step, said] = [this.steps[row], []];
      for (const { name, label, after, by } of this.events) {
        if (!["fit", "grok"].includes(name)) continue;
        said.push(step < by ? (after !== null && step > after ? `at ${label}` : `before ${label}`) : `after ${label}`);
      }
      return said.join(", ");
    }

    set(row) {
      const bounded = Math.max(0, Math.min(this.steps.length - 1, row));
      if (bounded === this.row) return;
      this.row = bounded;
      this.#tell("step");
    }

    pin(row) {
      this.pinned = row;
      this.#tell("pin");
    }

    setScale(scale) {
      this.scale = scale;
      this.#tell("scale");
    }

    #tell(what) {
      for (const listener of this.listeners) listener(what);
    }
  }

  // `#step=895&pin=20`: nearest saves of what the address asks for.
  function readAddress(time) {
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = (name) => {
      const text = asked.get(name);
      return text !== null && /^\d+$/.test(text) ? time.rowOf(Number(text)) : null;
    };
    return { row: number("step"), pinned: number("pin") };
  }

  function writeAddress(time) {
    const pinned = time.pinned === null ? "" : `&pin=${time.steps[time.pinned]}`;
    // browsers refuse more than some hundred of these in half a minute; a missed one is written by the next
    try { history.replaceState(null, "", `#step=${time.step}${pinned}`); } catch { /* too many */ }
  }

  Object.assign(grokscope, { Time, readAddress, writeAddress });
}
