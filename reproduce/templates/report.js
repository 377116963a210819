// Filters the verdict board and sorts the tables. The page is complete without it.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const finder = document.getElementById("finder");
  const status = finder.querySelector("[role=status]");
  const verdicts = all("[name=verdict]", finder).map((box) => box.value);

  // ------------------------------------------------------------------------------- filter
  const papers = all("[data-paper]").map((group) => ({
    group,
    name: group.dataset.paper,
    claims: all("tbody tr", group).map((row) => ({
      row,
      verdict: row.dataset.verdict,
      text: row.textContent.toLowerCase(),
    })),
  }));
  const total = papers.reduce((n, paper) => n + paper.claims.length, 0);

  function filter() {
    const asked = new FormData(finder);
    const wanted = asked.getAll("verdict");
    const words = asked.get("text").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const paper of papers) {
      const before = shown;
      for (const claim of paper.claims) {
        const fits =
          [paper.name, ""].includes(asked.get("paper")) &&
          (!wanted.length || wanted.includes(claim.verdict)) &&
          words.every((word) => claim.text.includes(word));
        claim.row.hidden = !fits;
        shown += fits;
      }
      paper.group.hidden = shown === before;
    }
    status.textContent = `${shown} of ${total} claims shown`;
  }

  // --------------------------------------------------------------------------------- sort
  const collator = new Intl.Collator("en", { numeric: true });
  // a number at the start: 1.2e-5, 254.6 [251.2, 258.0] nats, [0.1, 0.2], 130,647,294
  const NUMBER = /^\[?([-−+]?(?:inf|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?))(?![\w.-])/;

  // [rank, value]: numbers before words before nothing
  function key(row, column) {
    const cell = row.cells[column];
    if (cell.querySelector(".badge")) return [0, verdicts.indexOf(row.dataset.verdict)];
    const text = cell.textContent.trim();
    const number = NUMBER.exec(text);
    if (!number) return [text ? 1 : 2, text];
    return [0, Number(number[1].replace("−", "-").replaceAll(",", "").replace("inf", "Infinity"))];
  }

  function compare([rank, a], [other, b], sign) {
    if (rank !== other) return Math.max(rank, other) === 2 ? rank - other : sign * (rank - other);
    return sign * (rank === 1 ? collator.compare(a, b) : (a > b) - (a < b));
  }

  function sorted(rows, column, sign) {
    return rows
      .map((row) => [key(row, column), row])
      .sort(([a], [b]) => compare(a, b, sign))
      .map(([, row]) => row);
  }

  const next = { ascending: "descending", descending: "" };

  function sortable(table) {
    const body = table.tBodies[0];
    const written = [...body.rows];
    if (written.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = next[head.getAttribute("aria-sort")] ?? "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (way) head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        body.append(...(way ? sorted(written, column, sign) : written));
      });
    });
    table.classList.add("sortable");
  }

  all("table").forEach(sortable);
  if (total) {
    finder.hidden = false;
    finder.addEventListener("input", filter);
    finder.addEventListener("reset", () => setTimeout(filter));
    finder.addEventListener("submit", (event) => event.preventDefault());
    filter(); // a browser may have kept what was asked before a reload
  }
})();
