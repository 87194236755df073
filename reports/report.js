// What a reader can do on a page: enlarge a figure, sort and filter a table, unfold the code.
// Without this file a page has the same content.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

function enlarge(drawing) {
  const close = make("button", {type: "button", textContent: "Close"});
  const shown = drawing.cloneNode(true);
  const dialog = make("dialog", {className: "enlarged"}, close, shown);
  dialog.setAttribute("aria-label", drawing.getAttribute("aria-label") || "Figure");
  dialog.addEventListener("close", () => { dialog.remove(); drawing.focus(); });
  [close, shown].forEach((part) => part.addEventListener("click", () => dialog.close()));
  document.body.append(dialog);
  dialog.showModal();
}

all(".drawn").forEach((holder) => {
  all("svg, img", holder).forEach((drawing) => {
    drawing.addEventListener("click", () => enlarge(drawing));
  });
  const caption = holder.parentElement.querySelector("figcaption");
  const open = make("a", {href: "#", textContent: "Enlarge", role: "button", className: "files"});
  open.addEventListener("click", (event) => {
    event.preventDefault();
    enlarge(holder.querySelector("svg, img"));
  });
  caption?.append(" ", open);
});

// A table, a figure or a command that is wider than the page can be scrolled with the keyboard; the
// first two say so.
const watch = new ResizeObserver((entries) => entries.forEach(({target}) => {
  const wide = target.scrollWidth > target.clientWidth + 1;
  target.parentElement.classList.toggle("overflows", wide);
  target.toggleAttribute("tabindex", false);
  if (wide) target.tabIndex = 0;
}));
all(".scrolls, .drawn").forEach((holder) => {
  const caption = holder.parentElement.querySelector("figcaption");
  holder.setAttribute("role", "region");
  holder.setAttribute("aria-label", caption ? caption.textContent.slice(0, 80) : "Table");
  holder.before(make("span", {className: "hint", textContent: "Scroll sideways →"}));
  watch.observe(holder);
});
all("main pre").forEach((text) => watch.observe(text));

all("table.sortable").forEach((table) => {
  all("thead th", table).forEach((head) => {
    head.tabIndex = 0;
    head.title = "Sort by this column";
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") head.click(); });
  });
  if (table.tBodies[0].rows.length > 12) addFilters(table);
});

function addFilters(table) {
  const heads = all("thead th", table).map((head) => head.textContent.trim());
  const text = make("input", {type: "search", placeholder: "Filter rows"});
  text.setAttribute("aria-label", "Filter rows");
  const choices = ["verdict", "measured on", "page"].filter((name) => heads.includes(name)).map((name) => {
    const place = heads.indexOf(name);
    const values = new Set([...table.tBodies[0].rows].map((row) => row.cells[place].textContent.trim()));
    const select = make("select", {}, new Option(`${name}: every`, ""), ...[...values].map((v) => new Option(v, v)));
    select.setAttribute("aria-label", name);
    return {place, select};
  });
  const shown = make("span");
  shown.setAttribute("aria-live", "polite");
  const apply = () => {
    const rows = [...table.tBodies[0].rows];
    rows.forEach((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(text.value.toLowerCase())
        || choices.some(({place, select}) => select.value && row.cells[place].textContent.trim() !== select.value);
    });
    shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  [text, ...choices.map(({select}) => select)].forEach((field) => field.addEventListener("input", apply));
  apply();
  table.parentElement.before(make("div", {className: "filters"}, text, ...choices.map(({select}) => select), shown));
}

// One switch for the code, which is kept from page to page; off, nothing is left of it.
all(".code-switch").forEach((button) => {
  const show = (on) => {
    all("details.code-fold").forEach((fold) => { fold.open = on; fold.hidden = !on; });
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "Hide all code" : "Show all code";
  };
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("icm-code", value);
      return localStorage.getItem("icm-code") === "true";
    } catch { return false; }
  };
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    stored(on);
    show(on);
  });
  show(stored());
});

addEventListener("beforeprint", () => all("details:not(.code-fold)").forEach((part) => { part.open = true; }));
