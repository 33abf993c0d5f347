// The pictures of attention heads: a click or an arrow key asks for a large one.
element.addEventListener("click", event => {
    const head = event.target.closest("button");
    if (head) trigger("click", {place: head.dataset.place});
});
element.addEventListener("keydown", event => {
    const heads = [...element.querySelectorAll("button")];
    const row = heads.filter(head => head.dataset.place.startsWith("0 "));
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row.length, ArrowDown: row.length}[event.key];
    const next = heads[heads.indexOf(event.target) + step];
    if (next) { event.preventDefault(); next.focus(); next.click(); }
});
