"use strict";
// Tables sort by a click on a column's head, or Enter and Space on it: ascending, descending, as they came.
for (const table of document.querySelectorAll(".scroll table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.querySelectorAll("thead .columns th")];
  if (original.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? original : ordered(original, column, head.dataset.sort, next)));
    });
  });
}

function ordered(rows, column, kind, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[column].dataset.value;
  return [...rows].sort((first, second) => {
    const a = value(first), b = value(second);
    if (a === "" || b === "") return (a === "") - (b === ""); // missing values stay last either way
    return sign * (kind === "number" ? Number(a) - Number(b) : a.localeCompare(b));
  });
}
