// The arrays that the page carries: base64 of zlib bytes, with a word on how the bytes are to be read.
{
  const BYTES = { u8: 1, u16: 2, f32: 4 };

  async function inflate(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function undelta(bytes, width) {
    for (let at = width; at < bytes.length; at++) bytes[at] += bytes[at - width];
  }

  function unxor(bytes, width) {
    for (let at = width; at < bytes.length; at++) bytes[at] ^= bytes[at - width];
  }

  // Where a bit differs from the frame before, as distances in base 128; all frames of one bit before the next bit.
  function fromFlips(digits, count, size) {
    const width = Math.ceil(size / 8);
    const whole = new Uint8Array(count * width);
    let place = -1;
    let unit = 1;
    for (const digit of digits) {
      place += (digit & 127) * unit;
      unit *= 128;
      if (digit & 128) continue;
      unit = 1;
      const [bit, frame] = [Math.floor(place / count), place % count];
      if (bit >= size) throw new Error("an array with a mark beyond its end");
      whole[frame * width + (bit >> 3)] |= 128 >> (bit & 7);
    }
    unxor(whole, width);
    return whole;
  }

  // All first bytes, then all second ones, and so on: each kind of byte deflates better among its own.
  function unshuffle(bytes, size) {
    const count = bytes.length / size;
    const whole = new Uint8Array(bytes.length);
    for (let part = 0; part < size; part++) {
      for (let at = 0; at < count; at++) whole[at * size + part] = bytes[part * count + at];
    }
    return whole;
  }

  // Frames of numbers along the saves. `standsAt(row)` is the save whose frame is shown at `row`.
  class Frames {
    constructor(meta, bytes) {
      this.meta = meta;
      this.count = meta.shape[0];
      this.size = meta.shape.slice(1).reduce((product, side) => product * side, 1);
      this.width = meta.type === "bits" ? Math.ceil(this.size / 8) : this.size * BYTES[meta.type];
      this.rows = meta.frames || null;
      if (meta.coding === "flips") bytes = fromFlips(bytes, this.count, this.size);
      if (bytes.length !== this.count * this.width) throw new Error("an array of another length than it states");
      if (meta.coding === "delta") undelta(bytes, this.width);
      else if (meta.coding === "xor") unxor(bytes, this.width);
      else if (meta.coding === "shuffle") bytes = unshuffle(bytes, BYTES[meta.type]);
      this.bytes = bytes;
      // typed views read in the machine's order, which is little endian wherever browsers run today
      if (meta.type === "u16") this.words = new Uint16Array(bytes.buffer);
      if (meta.type === "f32") this.floats = new Float32Array(bytes.buffer);
      this.scratch = [new Float32Array(this.size), new Float32Array(this.size)];
    }

    index(row) {
      if (!this.rows) return Math.min(row, this.count - 1);
      let best = 0;
      for (let at = 1; at < this.rows.length; at++) {
        if (Math.abs(this.rows[at] - row) < Math.abs(this.rows[best] - row)) best = at;
      }
      return best;
    }

    standsAt(row) {
      return this.rows ? this.rows[this.index(row)] : row;
    }

    limit(which, index) {
      const value = this.meta[which];
      return Array.isArray(value) ? value[index] : value;
    }

    // The highest level of a byte that holds a number; one above it says that there is none.
    get top() {
      return this.meta.top ?? 255;
    }

    // The frame's bytes as they are: counts up to the top, bits, or levels between low and high.
    raw(index) {
      return this.bytes.subarray(index * this.width, (index + 1) * this.width);
    }

    // The frame's numbers, in one of two buffers that the next call with the same `buffer` writes over.
    values(index, buffer = 0) {
      const start = index * this.size;
      if (this.floats) return this.floats.subarray(start, start + this.size);
      const into = this.scratch[buffer];
      const levels = this.words || this.bytes;
      const low = this.limit("low", index);
      const top = this.words ? 65535 : this.top;
      const unit = (this.limit("high", index) - low) / top;
      const logarithmic = this.meta.scale === "log10";
      for (let at = 0; at < this.size; at++) {
        const level = levels[start + at];
        if (logarithmic) into[at] = level === 0 ? 0 : 10 ** (low + unit * level);
        else into[at] = level > top ? NaN : low + unit * level;
      }
      return into;
    }

    bit(index, at) {
      return (this.bytes[index * this.width + (at >> 3)] >> (7 - (at & 7))) & 1;
    }
  }

  const started = new WeakMap();
  // One promise of frames an array, however often it is asked for.
  function decode(meta) {
    if (!started.has(meta)) started.set(meta, inflate(meta.data).then((bytes) => new Frames(meta, bytes)));
    return started.get(meta);
  }

  Object.assign(grokscope, { decode });
}
