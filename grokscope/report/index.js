// Sorting and filtering of a table that is whole without it. The address keeps both, so that a view can be sent.
"use strict";
(() => {
  const table = document.getElementById("runs");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const [find, state, order, shown, none] =
    ["find", "state", "order", "shown", "none"].map((id) => document.getElementById(id));
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const texts = rows.map((row) => row.textContent.replace(/\s+/g, " ").toLowerCase());
  let sorted = "name";

  const column = (key) => heads.findIndex((head) => head.dataset.key === key);
  const value = (row, place) => row.cells[place].dataset.sort ?? "";
  const isNumeric = (place) => !heads[place].classList.contains("l");

  function compare(a, b, place, sign) {
    const [x, y] = [value(a, place), value(b, place)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what has no value comes last, whichever way
    return sign * (isNumeric(place) ? Number(x) - Number(y) : collator.compare(x, y));
  }

  function sort(by) {
    const key = by.replace(/^-/, "");
    const place = column(key);
    if (place < 0) return;
    sorted = by;
    const sign = by.startsWith("-") ? -1 : 1;
    const first = new Map(rows.map((row, index) => [row, index]));
    body.append(...[...rows].sort((a, b) => compare(a, b, place, sign) || first.get(a) - first.get(b)));
    for (const head of heads) {
      if (!head.dataset.key) continue;
      head.setAttribute("aria-sort", head.dataset.key !== key ? "none" : sign > 0 ? "ascending" : "descending");
    }
    order.value = by;
  }

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      const kept = (!state.value || row.dataset.state === state.value)
        && words.every((word) => texts[index].includes(word));
      row.hidden = !kept;
      count += kept;
    });
    shown.textContent = `${count} of ${rows.length} runs`;
    none.hidden = count > 0;
  }

  function remember() {
    const kept = new URLSearchParams();
    if (sorted !== "name") kept.set("sort", sorted);
    if (state.value) kept.set("state", state.value);
    if (find.value) kept.set("find", find.value);
    try {
      history.replaceState(null, "", `#${kept}`);
    } catch {
      // a page without an address of its own has none to keep it in
    }
  }

  for (const head of heads) {
    const key = head.dataset.key;
    if (!key) continue;
    const label = head.textContent;
    for (const [by, word] of [[key, "ascending"], [`-${key}`, "descending"]]) {
      order.add(new Option(`${label}, ${word}`, by));
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => {
      sort(sorted === key ? `-${key}` : key);
      remember();
    });
    head.replaceChildren(button);
  }
  order.addEventListener("change", () => { sort(order.value); remember(); });
  state.addEventListener("change", () => { filter(); remember(); });
  find.addEventListener("input", () => { filter(); remember(); });
  const tools = document.getElementById("tools");
  tools.addEventListener("submit", (event) => event.preventDefault());

  const given = new URLSearchParams(location.hash.slice(1));
  find.value = given.get("find") ?? "";
  state.value = given.get("state") ?? "";
  if (state.selectedIndex < 0) state.value = "";
  sort(given.get("sort") ?? "name");
  if (sorted === "name") sort("name");
  filter();
  tools.hidden = false;
})();
