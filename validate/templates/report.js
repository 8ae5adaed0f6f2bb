"use strict";
// Colours, sorting and printing of the report. It reads and writes nothing but this page.

const root = document.documentElement;
const box = document.querySelector(".theme");
box.hidden = false;
box.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  const theme = chosen.dataset.themeChoice;
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  for (const button of box.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === chosen));
  }
});

// A figure that was not measured has no number and stays last, whichever way the column is sorted.
function keyOf(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = /^[\u2264\u2265<>\s]*(-?[\d\u202f,]*\.?\d+(?:e[+-]?\d+)?)/i.exec(text);
  return { text, number: number ? Number(number[1].replace(/[\u202f,]/g, "")) : NaN };
}

function compare(one, other, direction) {
  if (Number.isNaN(one.number) && Number.isNaN(other.number)) return direction * one.text.localeCompare(other.text, "en");
  if (Number.isNaN(one.number)) return 1;
  if (Number.isNaN(other.number)) return -1;
  return direction * (one.number - other.number);
}

function sort(table, column, head) {
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [keyOf(row.cells[Math.min(column, row.cells.length - 1)]), row]);
  rows.sort((one, other) => compare(one[0], other[0], direction));
  body.append(...rows.map((pair) => pair[1]));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, column, head));
  });
}

// The contents are folded where they would push the verdict off the first screen.
const contents = document.querySelector(".contents");
if (matchMedia("(max-width: 1099px)").matches) contents.open = false;

// What decides is printed open; browsers without ::details-content need it open before.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.print")) part.open = true;
});

// A link to something inside a closed part opens it.
function reveal() {
  const found = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  for (let part = found && found.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
}
addEventListener("hashchange", reveal);
reveal();
