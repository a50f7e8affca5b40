// Values and ticks of axes: linear, logarithmic, and logarithmic with a linear middle.
{
  const { number, scientific, stepLabel } = grokscope;

  function niceStep(span, most) {
    const rough = span / Math.max(1, most);
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 2.5, 5, 10].map((digit) => digit * power).find((step) => step >= rough * 0.999);
  }

  function linearTicks(low, high, most) {
    if (!(high > low)) return [low];
    const step = niceStep(high - low, most);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) ticks.push(at * step);
    return ticks;
  }

  // Powers of ten from low to high, every second or third one where they are many.
  function powersOfTen(low, high, most) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const stride = Math.max(1, Math.ceil((last - first + 1) / most));
    const powers = [];
    for (let power = first; power <= last; power += stride) powers.push(10 ** power);
    return powers;
  }

  // Ticks of a logarithmic axis: powers of ten; where those are few, 1, 2 and 5 in each decade; else round numbers.
  function decades(low, high, most) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const powers = powersOfTen(low, high, most);
    if (powers.length >= 3 || last - first >= 2) return powers;
    const between = [];
    for (let power = first - 1; power <= last; power++) between.push(...[1, 2, 5].map((digit) => digit * 10 ** power));
    const inside = between.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    return inside.length >= 2 ? inside : linearTicks(low, high, most);
  }

  function powerLabel(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 0.0099 && size <= 1000) return String(Number(value.toPrecision(3))).replace("-", "−");
    return scientific(value, 1);
  }

  function linearLabels(ticks) {
    const step = ticks.length > 1 ? ticks[1] - ticks[0] : Math.abs(ticks[0]) || 1;
    const most = Math.max(...ticks.map(Math.abs));
    if (most >= 1e5 || most < 1e-3) return ticks.map((tick) => (tick === 0 ? "0" : number(tick, 2)));
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const more = Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6 ? 1 : 0;
    return ticks.map((tick) => (Math.abs(tick) < step / 1e6 ? 0 : tick).toFixed(decimals + more).replace(/^-/, "−"));
  }

  // A value axis: `place` from 0 at its foot to 1 at its head, and its ticks with labels.
  function valueAxis(axes, most) {
    const [low, high] = axes.ylim;
    if (axes.yscale === "log" && low > 0) {
      const [from, to] = [Math.log10(low), Math.log10(high)];
      const ticks = decades(low, high, most);
      return {
        place: (value) => (value > 0 ? (Math.log10(value) - from) / (to - from) : NaN),
        ticks: ticks.map((value) => ({ value, label: powerLabel(value) })),
      };
    }
    if (axes.yscale === "symlog") {
      const threshold = axes.ylinthresh ?? Math.max(Math.abs(low), Math.abs(high)) / 1000;
      const room = (axes.ylinscale ?? 1) / 0.9; // decades that the linear middle takes on either side of zero
      const bend = (value) => {
        const size = Math.abs(value);
        const bent = size <= threshold ? (room * size) / threshold : room + Math.log10(size / threshold);
        return Math.sign(value) * bent;
      };
      const [from, to] = [bend(low), bend(high)];
      const side = (end) => (end > threshold ? powersOfTen(threshold, end, Math.ceil(most / 2)) : []);
      const ticks = [...side(-low).map((value) => -value).reverse(), 0, ...side(high)];
      return {
        place: (value) => (bend(value) - from) / (to - from),
        ticks: ticks.filter((value) => value >= low && value <= high)
          .map((value) => ({ value, label: powerLabel(value) })),
      };
    }
    const ticks = linearTicks(low, high, most);
    const labels = linearLabels(ticks);
    return {
      place: (value) => (value - low) / (high - low),
      ticks: ticks.map((value, at) => ({ value, label: labels[at] })),
    };
  }

  // Ticks of the time axis that have room: `width` in pixels.
  function timeTicks(time, width) {
    const most = Math.max(2, Math.floor(width / 72));
    let wanted;
    if (time.scale === "log") {
      wanted = [0, ...decades(time.threshold, time.last, most).filter((step) => Number.isInteger(step))];
    } else if (time.scale === "linear") {
      wanted = linearTicks(0, time.last, most);
    } else {
      wanted = [...time.breaks];
      for (let piece = 1; piece < time.breaks.length; piece++) {
        const [from, to] = time.breaks.slice(piece - 1, piece + 1);
        wanted.push(...linearTicks(from, to, 3));
      }
    }
    // those that come first stay: the ends of stretches before the round numbers between them
    const kept = [];
    for (const step of wanted) {
      const at = time.place(step) * width;
      if (kept.every((other) => Math.abs(other.at - at) >= 34)) kept.push({ at, step, label: stepLabel(step) });
    }
    return kept;
  }

  Object.assign(grokscope, { valueAxis, timeTicks, linearTicks });
}
