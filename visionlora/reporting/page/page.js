(() => {
  "use strict";
  const root = document.documentElement;

  // Theme: as the system says, until the button is pressed.
  const button = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

  document.getElementById("print").addEventListener("click", () => print());

  // Tables: a click on a heading sorts by it, a second one turns the order.
  const value = (row, column) => {
    const cell = row.cells[column];
    const key = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(key);
    return key === "" ? null : Number.isNaN(number) ? key.toLowerCase() : number;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") === "descending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const x = value(a, column), y = value(b, column);
          if (x === null || y === null) return (x === null) - (y === null);  // what has no value stands last
          const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  // Legends: a click hides a model in every chart.
  for (const key of document.querySelectorAll("button[data-model]")) {
    key.addEventListener("click", () => {
      const hidden = document.body.classList.toggle(`hide-${key.dataset.model}`);
      for (const twin of document.querySelectorAll(`button[data-model="${key.dataset.model}"]`)) {
        twin.setAttribute("aria-pressed", String(!hidden));
      }
    });
  }

  // Paper shows everything.
  const folded = new Set();
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { folded.add(part); part.open = true; }
  });
  addEventListener("afterprint", () => { for (const part of folded) part.open = false; folded.clear(); });
})();
