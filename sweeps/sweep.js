
// Of a sweep: what belongs to the trial under the pointer, or chosen by a tap, is shown in every chart and table.
(() => {
  const told = document.getElementById("told");
  const words = JSON.parse(document.getElementById("data").textContent).trials;
  function look(number) {
    document.querySelectorAll(".seen").forEach((each) => each.classList.remove("seen"));
    document.body.classList.toggle("looking", number !== undefined);
    told.textContent = number === undefined ? "" : words[number];
    if (number === undefined) return;
    for (const each of document.querySelectorAll(`[data-trial="${number}"]`)) {
      each.classList.add("seen");
    }
  }
  // Of the lines that lie close to the pointer, the nearest: a thin line is hard to hit.
  function near(event) {
    const own = event.target.closest("[data-trial]");
    if (own) return own.dataset.trial;
    const svg = event.target.closest(".plot svg");
    if (!svg) return undefined;
    for (const reach of [3, 6, 10])
      for (const [dx, dy] of [[0, -reach], [0, reach], [-reach, 0], [reach, 0]]) {
        const found = document.elementFromPoint(event.clientX + dx, event.clientY + dy)?.closest("[data-trial]");
        if (found && svg.contains(found)) return found.dataset.trial;
      }
    return undefined;
  }
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, (event) => look(near(event)));
  document.documentElement.addEventListener("pointerleave", () => look());
})();
