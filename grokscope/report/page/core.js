// The page's script. Its files are put together in one block, this one first, and share one namespace. The page
// reads whole without them: everything that depends on the script is made by the script.
"use strict";
const grokscope = {};
{
  const SVG = "http://www.w3.org/2000/svg";
  const THIN = "\u202f";
  const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // Text goes in as text nodes, never as markup: a name full of markup stays a name.
  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  function whole(value) {
    const size = String(Math.abs(value));
    const grouped = size.length < 5 ? size : size.replace(/\B(?=(\d{3})+$)/g, THIN);
    return (value < 0 ? "−" : "") + grouped;
  }

  function scientific(value, digits) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const raised = String(Number(power)).replace(/./g, (sign) => (sign === "-" ? "⁻" : RAISED[sign]));
    const leading = Number(mantissa) === 1 ? "" : Number(mantissa) === -1 ? "−" : `${mantissa}×`;
    return `${leading}10${raised}`.replace(/^-/, "−");
  }

  // A number with `digits` significant digits, zeros kept so that it does not jump in width as it changes.
  function number(value, digits = 3) {
    if (!Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e5) return scientific(value, digits);
    const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
    return value.toFixed(decimals).replace(/^-/, "−");
  }

  // The shortest decimal that reads back as the same 32-bit float: what CSV and JSON hold.
  function exact(value) {
    if (!Number.isFinite(value)) return "";
    const single = Math.fround(value);
    if (single !== value) return String(value);
    for (let digits = 6; digits < 9; digits++) {
      const text = single.toPrecision(digits);
      if (Math.fround(Number(text)) === single) return String(Number(text));
    }
    return String(Number(single.toPrecision(9)));
  }

  // A step as a short label: 500, 20k, 1.5M.
  function stepLabel(value) {
    for (const [size, suffix] of [[1e6, "M"], [1e3, "k"]]) {
      if (value < size || (value < 1e4 && value % 1000 !== 0)) continue;
      return `${Number((value / size).toPrecision(3))}${suffix}`;
    }
    return String(Number(value.toPrecision(4)));
  }

  let palette = new Map();
  // A colour of the style sheet by its variable, for canvases, which know no variables.
  function colour(variable) {
    if (!palette.has(variable)) {
      palette.set(variable, getComputedStyle(document.documentElement).getPropertyValue(variable).trim());
    }
    return palette.get(variable);
  }
  const forgetColours = () => { palette = new Map(); };

  function slug(text) {
    return text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  }

  Object.assign(grokscope, {
    make, draw, whole, number, exact, scientific, stepLabel, colour, forgetColours, slug,
  });
}
